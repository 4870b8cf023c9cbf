import { measure, pairing } from "./bench";
import { InferenceWorker } from "./client";

const token = pairing(location.hash);
if (token) void measure(token);
else Object.assign(window, { worker: new InferenceWorker() });
