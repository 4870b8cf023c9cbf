import { InferenceWorker } from "./client";

Object.assign(window, { worker: new InferenceWorker() });
