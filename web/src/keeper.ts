// Keeps a model running: what is installed first, then what the server offers, now and again in the background.
import { InferenceWorker, WorkerError } from "./client";
import { Damaged, openInstalled, pinnedKeys, Refused, take, Tried, type Running } from "./models";
import { config, TokenNeeded, Unreachable, type Config, type Offer } from "./server";
import { Store, type ModelState } from "./store";

/** What the page shows of it. */
export interface Shown {
  running(running: Running, updated: boolean): void;
  stopped(): void;
  /** Another engine runs the model. */
  engine(): void;
  models(names: string[], chosen: string): void;
  progress(have: number | null, all?: number): void;
  downloading(offer: Offer): void;
  proving(): void;
  refused(error: Refused, offer: Offer, first: boolean): void;
  damaged(detail: string): void;
  failed(error: WorkerError | Error): void;
  /** A worker did not answer and is started again. */
  silent(error: WorkerError): void;
  offline(kept: boolean): void;
  online(): void;
  token(): void;
  rolledBack(from: string, to: string): void;
  upToDate(): void;
}

const CHOSEN = "pocketvit-model";
/** Answers in a row that fail before a new version is taken back. */
const MOST_FAILED = 3;
/** Times in a row that a worker that went silent is started again. */
const MOST_SILENT = 3;

export class Keeper {
  running: Running | null = null;
  private server: Config | null = null;
  private busy: Promise<void> = Promise.resolve();
  private failures = 0;
  private fresh = false;
  private silences = 0;
  private readonly tried = new Set<string>();

  private constructor(private readonly store: Store, private readonly shown: Shown, private gpu: boolean) {
    InferenceWorker.onSilent = (error) => shown.silent(error);
  }

  static async start(shown: Shown, gpu: boolean): Promise<Keeper> {
    return new Keeper(await Store.open(), shown, gpu);
  }

  get chosen(): string {
    return localStorage.getItem(CHOSEN) ?? "";
  }

  choose(name: string): Promise<void> {
    localStorage.setItem(CHOSEN, name);
    return this.check(true);
  }

  /** Look at what is installed and at what the server has, one after the other; `again` also opens anew. */
  check(again = false): Promise<void> {
    return this.queued(() => this.look(again));
  }

  /** One after the other: each of them reads the state, waits long, and writes it. */
  private queued(work: () => Promise<void>): Promise<void> {
    this.busy = this.busy.then(work).catch((error: Error) => this.shown.failed(error));
    return this.busy;
  }

  private async look(again: boolean): Promise<void> {
    if (again) this.tried.clear();
    const states = (await this.store.states()).filter((state) => state.current);
    if (again || !this.running) await this.openKept(states);
    try {
      this.server = await config();
      this.shown.online();
    } catch (error) {
      return this.unreachable(error as Error, states);
    }
    const names = this.server.models.map((model) => model.name);
    if (!names.includes(this.chosen) && names.length) localStorage.setItem(CHOSEN, names[0]);
    this.shown.models(names, this.chosen);
    const offer = this.server.models.find((model) => model.name === this.chosen);
    if (offer) await this.takeOffer(offer, await pinnedKeys(this.store, this.server.keys));
  }

  private unreachable(error: Error, states: ModelState[]): void {
    if (error instanceof TokenNeeded) return this.shown.token();
    if (!(error instanceof Unreachable)) return this.shown.failed(error);
    this.shown.models(states.map((state) => state.name), this.chosen);
    this.shown.offline(this.running !== null);
  }

  private async openKept(states: ModelState[]): Promise<void> {
    const state = states.find((each) => each.name === this.chosen) ?? (this.chosen ? undefined : states[0]);
    if (!state) return;
    try {
      this.use(await openInstalled(this.store, state, this.gpu), false);
    } catch (error) {
      if (!(error instanceof Damaged)) return this.shown.failed(error as Error);
      this.shown.damaged(error.message);
      await this.dropCurrent(state);
    }
  }

  /** What is damaged is forgotten, and the version before it opened where there is one. */
  private async dropCurrent(state: ModelState): Promise<void> {
    const next = { ...state, current: state.previous, previous: null };
    await this.store.setState(next);
    await this.store.sweep();
    if (next.current) this.use(await openInstalled(this.store, next, this.gpu), false);
  }

  private async takeOffer(offer: Offer, keys: string[]): Promise<void> {
    const progress = (have: number, all: number) => {
      this.shown.progress(have, all);
      if (have >= all) this.shown.proving();
      else this.shown.downloading(offer);
    };
    try {
      const update = this.running?.manifest.name === offer.name;
      const taken = await take(this.store, offer, { keys, progress, gpu: this.gpu, tried: this.tried });
      if (taken) this.use(taken, update);
      else await this.opened(offer);
    } catch (error) {
      this.notTaken(error as Error, offer);
    } finally {
      this.shown.progress(null);
    }
  }

  /** What runs goes on running, whatever is wrong with what is offered. */
  private notTaken(error: Error, offer: Offer): void {
    if (error instanceof Unreachable) return this.shown.offline(this.running !== null);
    if (error instanceof TokenNeeded) return this.shown.token();
    if (error instanceof Tried && !this.running) return; // why it does not run is on the page already
    if (!(error instanceof Refused) && !this.running) return this.shown.failed(error);
    const memory = error instanceof WorkerError && error.trouble === "memory";
    const refused = error instanceof Refused ? error : new Refused(memory ? "memory" : "engine", error.message);
    this.shown.refused(refused, offer, this.running?.manifest.name !== offer.name);
  }

  private async opened(offer: Offer): Promise<void> {
    const state = await this.store.state(offer.name);
    if (this.running?.manifest.name === offer.name) {
      if (state.current) this.running.installed = state.current;
      this.shown.upToDate();
      this.shown.running(this.running, false);
    } else if (state.current) this.use(await openInstalled(this.store, state, this.gpu), false);
  }

  /** In one step: the next frame goes to the new model; the one that the old works on is lost. */
  private use(running: Running, updated: boolean): void {
    const old = this.running;
    this.running = running;
    this.failures = 0;
    this.fresh = updated;
    old?.worker.end();
    this.shown.running(running, updated);
    void running.tryGpu?.().then(() => {
      if (this.running !== running) return;
      if (running.worker.ended) void this.restart(running, new WorkerError("silent", running.gpuFault, "agree"));
      else this.shown.engine();
    });
  }

  /** Tell of an answer of what runs. A new version whose first answers fail goes, and the one before comes back. */
  async report(ok: boolean): Promise<void> {
    this.failures = ok ? 0 : this.failures + 1;
    this.silences = ok ? 0 : this.silences;
    this.fresh &&= !ok;
    const { running } = this;
    if (this.fresh && this.failures >= MOST_FAILED && running) await this.queued(() => this.rollBack(running));
  }

  /** What did not answer is ended and opened anew: without WebGPU where that was tried; the version before, if new. */
  async restart(running: Running, error: WorkerError): Promise<void> {
    if (this.running !== running) return;
    this.shown.silent(error);
    if (error.during !== "answer") this.gpu = false;
    else if (this.fresh) await this.queued(() => this.rollBack(running));
    if (this.running !== running) return;
    this.close();
    if (++this.silences > MOST_SILENT) this.shown.failed(error);
    else await this.check(true);
  }

  private async rollBack(running: Running): Promise<void> {
    const { name, version } = running.manifest, state = await this.store.state(name);
    const bad = running.installed.manifestSha256;
    if (this.running !== running || state.current?.manifestSha256 !== bad || !state.previous) return;
    const next = { ...state, current: state.previous, previous: null, refused: [...state.refused, bad] };
    await this.store.setState(next);
    this.use(await openInstalled(this.store, next, this.gpu), false);
    this.shown.rolledBack(version, next.current.version);
  }

  /** End what runs, with its memory. */
  close(): void {
    this.running?.worker.end();
    this.running = null;
    this.shown.stopped();
  }
}
