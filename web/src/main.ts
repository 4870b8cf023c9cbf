import "./style.css";
import { App } from "./app";
import { takeToken } from "./server";

takeToken();
const app = new App();
// For tests and for the curious: the last frame with its answer, and what runs.
Object.assign(window, { pocketvit: { lastFrame: () => app.stage.last, status: () => app.status(), check: () => app.check() } });
void app.start();
