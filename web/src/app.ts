// The page: what people do, what the camera and the model do, and what is shown of it.
import { Camera, CameraError } from "./camera";
import { WorkerError } from "./client";
import { battery, memoryBytes } from "./device";
import { Keeper, type Shown } from "./keeper";
import { Meters } from "./meters";
import type { Running } from "./models";
import { looking } from "./offline";
import { photoFrame } from "./photo";
import { setToken } from "./server";
import { Stage } from "./stage";
import { element, megabytes, View, type Problem } from "./view";
import type { Frame } from "./protocol";
import type { Key } from "./texts";

const POLL_S = 300;
const options = new URLSearchParams(location.search);

export class App {
  readonly view = new View();
  readonly stage = new Stage(this.view);
  private readonly camera = new Camera(element<HTMLVideoElement>("video"));
  private readonly meters = new Meters();
  private keeper: Keeper | null = null;
  private working = false;
  private waiting: number | null = null;
  private photo: Frame | null = null;
  /** The photo is to be worked on, once more or for the first time. */
  private again = false;

  async start(): Promise<void> {
    this.listen();
    this.view.onLanguage = () => this.showModel();
    if (!isSecureContext) return this.view.problem("insecure", { title: "insecure", todo: "insecure_todo" });
    if (!crossOriginIsolated) this.view.note("not_isolated", { title: "not_isolated", todo: "not_isolated_todo" });
    looking(() => this.view.note("not_kept", { title: "not_kept", todo: "not_kept_todo" }));
    try {
      this.keeper = await Keeper.start(this.shown(), options.get("gpu") !== "0");
    } catch (error) {
      return this.shown().failed(error as Error);
    }
    await this.check();
    const seconds = Number(options.get("poll")) || POLL_S;
    setInterval(() => void this.check(), seconds * 1000);
    window.addEventListener("online", () => void this.check());
    window.addEventListener("offline", () => this.shown().offline(this.keeper?.running != null));
    setInterval(() => this.showMeters(), 500);
    void this.watchDevice();
  }

  check(again = false): Promise<void> {
    return this.keeper?.check(again) ?? Promise.resolve();
  }

  private listen(): void {
    const press = (id: string, run: () => void) => element(id).addEventListener("click", run);
    press("camera", () => void this.toggleCamera());
    press("flip", () => {
      this.camera.turn();
      void this.startCamera();
    });
    press("photo", () => element<HTMLInputElement>("file").click());
    press("save", () => void this.stage.save(this.keeper?.running?.manifest.name ?? "pocketvit"));
    press("update", () => void this.check());
    element("file").addEventListener("change", () => void this.takePhoto());
    element("choose").addEventListener("change", () => void this.chooseModel());
    element("strength").addEventListener("input", () => {
      element("strength-value").textContent = this.strengthValue().toFixed(1);
      this.again = !this.camera.on;
      this.next();
    });
    element("size").addEventListener("change", () => this.meters.reset());
    this.camera.onEnd = () => this.cameraProblem(new CameraError("no_camera", "the camera is gone"));
    document.addEventListener("visibilitychange", () => this.meters.reset());
  }

  private shown(): Shown {
    const retry = { label: "retry" as const, run: () => void this.check(true) };
    const problem = (id: string, todo: Key, more: Partial<Problem> = {}) =>
      this.view.problem(id, { title: id as Key, todo, ...more });
    return {
      running: (running, updated) => this.show(running, updated),
      stopped: () => this.able(false),
      engine: () => this.showModel(),
      models: (names, chosen) => this.showChoice(names, chosen),
      progress: (have, all) => this.view.progress(have, all),
      downloading: ({ name, version }) => this.view.say("downloading", { name, version }),
      proving: () => this.view.say("proving"),
      refused: (error, offer, first) =>
        this.view.problem("refused", {
          title: first ? "refused_first" : "refused", todo: first ? "refused_first_todo" : "refused_todo",
          values: { version: offer.version }, reason: `reason_${error.reason}`, detail: error.message,
        }),
      damaged: (detail) => problem("damaged", "damaged_todo", { detail, action: retry }),
      failed: (error) => this.failed(error),
      silent: (error) => this.view.note("silent", { title: "silent", todo: "silent_todo", detail: error.message }),
      offline: (kept) => {
        if (kept) this.view.note("offline", { title: "offline", todo: "offline_todo" });
        else problem("no_model", "no_model_todo", { action: retry });
      },
      online: () => this.view.clear("offline", "no_model", "token"),
      token: () => problem("token", "token_todo", {
        ask: { label: "token_label", send: "token_send", run: (value) => {
          setToken(value);
          void this.check();
        } },
      }),
      rolledBack: (version, previous) => this.view.say("rolled_back", { version, previous }),
      upToDate: () => {
        this.view.clear("refused", "failed");
        if (!this.camera.on) this.view.say("current");
      },
    };
  }

  private failed(error: Error): void {
    const memory = error instanceof WorkerError && error.trouble === "memory";
    const action = { label: "retry" as const, run: () => {
      this.view.clear("memory_out", "failed");
      void this.check(true);
    } };
    if (memory) {
      this.stopCamera();
      this.keeper?.close();
      this.view.problem("memory_out", { title: "memory_out", todo: "memory_out_todo", detail: error.message, action });
    } else {
      this.view.problem("failed", { title: "failed", todo: "failed_todo", detail: error.message, action });
    }
  }

  private able(yes: boolean): void {
    for (const id of ["camera", "photo"]) element<HTMLButtonElement>(id).disabled = !yes;
  }

  private show(running: Running, updated: boolean): void {
    this.able(true);
    this.view.clear("damaged", "memory_out", "failed", "refused", "no_model");
    const { strength, task } = running.manifest, knob = element<HTMLInputElement>("strength");
    element("strength-row").hidden = task !== "restore";
    Object.assign(knob, { min: String(strength?.low ?? 0), max: String(strength?.high ?? 2) });
    this.showModel();
    if (updated) this.view.say("updated", { version: running.manifest.version });
    else if (!this.camera.on) this.view.say("ready");
    this.next();
  }

  private showModel(): void {
    this.stage.caption();
    const running = this.keeper?.running;
    if (!running) return;
    const { installed, manifest, threads, variant, gpuFault } = running, { keyId: key, counter } = installed;
    this.view.set("model-name", manifest.name);
    this.view.set("model-version", manifest.version);
    const signed = key ? this.view.t("signed", { key, counter }) : this.view.t("not_signed");
    this.view.set("model-signed", `${signed} ${this.view.t("installed_size", { size: megabytes(installed.bytes) })}.`);
    const engine: Key = running.backend === "webgpu" ? "engine_gpu" : threads > 1 ? "engine_wasm" : "engine_wasm_one";
    const fault = gpuFault ? `. ${this.view.t("engine_gpu_fault", { fault: gpuFault.slice(0, 200) })}` : "";
    this.view.set("engine", this.view.t(engine, { threads, variant }) + fault);
  }

  private showChoice(names: string[], chosen: string): void {
    element("choose-row").hidden = names.length < 2;
    const list = element<HTMLSelectElement>("choose");
    if (list.options.length !== names.length) list.replaceChildren(...names.map((name) => new Option(name, name)));
    list.value = chosen;
  }

  private async chooseModel(): Promise<void> {
    this.meters.reset();
    this.photo = null;
    await this.keeper?.choose(element<HTMLSelectElement>("choose").value);
  }

  private async toggleCamera(): Promise<void> {
    if (this.camera.on) this.stopCamera();
    else await this.startCamera();
  }

  private stopCamera(): void {
    if (this.camera.on) this.view.say("stopped");
    this.camera.stop();
    this.waiting = null;
    this.view.label("camera", "camera_start");
  }

  private async startCamera(): Promise<void> {
    this.view.clear("camera");
    try {
      if (!(await this.camera.start(this.side()))) return;
    } catch (error) {
      return this.cameraProblem(error as CameraError);
    }
    this.meters.reset();
    this.photo = null;
    this.view.label("camera", "camera_stop");
    this.view.say("running");
    this.camera.watch((shown) => {
      this.meters.frame();
      if (this.waiting !== null) this.meters.drop(); // a newer one takes its place
      this.waiting = shown;
      this.next();
    });
    element("flip").hidden = !(await this.camera.several());
  }

  private cameraProblem(error: CameraError): void {
    this.stopCamera();
    const { fault, message: detail } = error, action = { label: "retry" as const, run: () => void this.startCamera() };
    this.view.problem("camera", { title: fault, todo: `${fault}_todo`, detail, action });
  }

  /** The photo, or the newest frame, to the model, where it is idle. */
  private next(): void {
    if (this.again && this.photo && !this.working && this.keeper?.running) {
      this.again = false;
      void this.work({ ...this.photo, rgba: this.photo.rgba.slice() });
    }
    const shown = this.waiting;
    if (shown === null || this.working || !this.keeper?.running || !this.camera.on) return;
    this.waiting = null;
    void this.work(this.camera.grab(this.side()), shown);
  }

  private side(): number {
    return Number(element<HTMLSelectElement>("size").value);
  }

  private strengthValue(): number {
    return Number(element<HTMLInputElement>("strength").value);
  }

  private async work(frame: Frame, shown: number | null = null): Promise<void> {
    const running = this.keeper?.running;
    if (!running || this.working) return;
    this.working = true;
    const { session, manifest, variant } = running, strength = manifest.task === "restore" ? this.strengthValue() : null;
    const began = performance.now();
    try {
      const args = { session, manifest, variant, frame, strength };
      const answer = await running.worker.ask("answer", args, [frame.rgba.buffer]);
      this.stage.draw(answer);
      element<HTMLButtonElement>("save").disabled = false;
      if (shown !== null) this.meters.answer(performance.now() - shown);
      else this.view.say("photo_done", { ms: Math.round(performance.now() - began) });
      this.view.clear("silent");
      await this.keeper?.report(true);
    } catch (error) {
      if (error instanceof WorkerError && error.trouble === "silent") void this.keeper?.restart(running, error);
      else if (this.keeper?.running === running) await this.answerFailed(error as Error);
    } finally {
      this.working = false;
      this.next();
    }
  }

  private async answerFailed(error: Error): Promise<void> {
    const before = this.keeper?.running;
    await this.keeper?.report(false);
    if (this.keeper?.running === before) this.failed(error);
  }

  private async takePhoto(): Promise<void> {
    const input = element<HTMLInputElement>("file"), file = input.files?.[0];
    input.value = "";
    if (!file) return;
    this.stopCamera();
    this.view.clear("camera"); // a photo works without one
    try {
      this.photo = await photoFrame(file);
    } catch {
      return this.view.urge("photo_bad");
    }
    this.view.say("photo_running");
    this.again = true;
    this.next();
  }

  private showMeters(): void {
    if (!this.camera.on) return;
    const number = (value: number | null, unit: string, digits = 0) =>
      value === null ? "–" : `${value.toFixed(digits)}${unit}`;
    this.view.set("fps", number(this.meters.fps, "", 1));
    this.view.set("p50", number(this.meters.latency(0.5), " ms"));
    this.view.set("p90", number(this.meters.latency(0.9), " ms"));
    this.view.set("dropped", String(this.meters.dropped));
  }

  private async watchDevice(): Promise<void> {
    for (;;) {
      await this.showDevice();
      await new Promise((resolve) => setTimeout(resolve, 10_000));
    }
  }

  private async showDevice(): Promise<void> {
    const power = await battery();
    const level = power && `${Math.round(100 * power.level)} %${power.charging ? " ⚡" : ""}`;
    this.view.set("battery", level ?? this.view.t("unknown"));
    const bytes = await memoryBytes(); // the browser takes its time
    this.view.set("memory", bytes === null ? this.view.t("unknown") : megabytes(bytes));
  }

  /** For tests and benchmarks. */
  status(): Record<string, unknown> {
    const running = this.keeper?.running, { came, answered, dropped, fps } = this.meters;
    const model = running && {
      ...running.installed, name: running.manifest.name, backend: running.backend, threads: running.threads,
    };
    return { model: model ?? null, busy: this.working || this.again, came, answered, dropped, fps, p50: this.meters.latency(0.5) };
  }
}
