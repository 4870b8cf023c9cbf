import "./style.css";
import { App } from "./app";
import { measure, pairing } from "./bench";
import { takeToken } from "./server";

function start(): void {
  takeToken();
  const app = new App();
  // For tests and for the curious: the last frame with its answer, and what runs.
  const pocketvit = { lastFrame: () => app.stage.last, status: () => app.status(), check: () => app.check() };
  Object.assign(window, { pocketvit });
  void app.start();
}

const pair = pairing(location.hash);
if (pair) void measure(pair);
else start();
