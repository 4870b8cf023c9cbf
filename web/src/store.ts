// What the phone keeps in IndexedDB: pinned keys, which versions are installed, and the files of models as bytes.

export interface Installed {
  version: string;
  manifestSha256: string;
  /** Of the channel; 0 where it is not signed. */
  counter: number;
  /** The pinned key that signed it; empty where nobody did. */
  keyId: string;
  /** runtime:precision */
  variant: string;
  /** Of the files that are kept. */
  bytes: number;
}

export interface ModelState {
  name: string;
  task: string;
  current: Installed | null;
  previous: Installed | null;
  /** The highest counter that was ever seen with a good signature, and what it was seen with. */
  counter: number;
  payloadSha256: string;
  /** Digests of manifests whose goldens failed here. */
  refused: string[];
}

const VALUES = "values", FILES = "files";

function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.addEventListener("success", () => resolve(request.result));
    request.addEventListener("error", () => reject(request.error ?? new Error("the store failed")));
  });
}

function ended(transaction: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = () => reject(transaction.error ?? new Error("the store failed"));
    transaction.addEventListener("complete", () => resolve());
    transaction.addEventListener("error", fail);
    transaction.addEventListener("abort", fail);
  });
}

export class Store {
  private constructor(private readonly base: IDBDatabase) {}

  static async open(): Promise<Store> {
    const request = indexedDB.open("pocketvit", 1);
    request.addEventListener("upgradeneeded", () => {
      request.result.createObjectStore(VALUES);
      request.result.createObjectStore(FILES);
    });
    return new Store(await done(request));
  }

  async get<T>(key: string): Promise<T | undefined> {
    return done(this.base.transaction(VALUES).objectStore(VALUES).get(key) as IDBRequest<T | undefined>);
  }

  async set(key: string, value: unknown): Promise<void> {
    const transaction = this.base.transaction(VALUES, "readwrite", { durability: "strict" });
    transaction.objectStore(VALUES).put(value, key);
    await ended(transaction);
  }

  async state(name: string): Promise<ModelState> {
    const fresh = { name, task: "", current: null, previous: null, counter: 0, payloadSha256: "", refused: [] };
    return (await this.get<ModelState>(`model:${name}`)) ?? fresh;
  }

  async states(): Promise<ModelState[]> {
    const range = IDBKeyRange.bound("model:", "model;", false, true);
    return done(this.base.transaction(VALUES).objectStore(VALUES).getAll(range) as IDBRequest<ModelState[]>);
  }

  setState(state: ModelState): Promise<void> {
    return this.set(`model:${state.name}`, state);
  }

  async file(digest: string, path: string): Promise<Uint8Array | undefined> {
    const key = `${digest}/${path}`;
    return done(this.base.transaction(FILES).objectStore(FILES).get(key) as IDBRequest<Uint8Array | undefined>);
  }

  /** Files and the state that names them, all or nothing. */
  async install(state: ModelState, digest: string, files: Record<string, Uint8Array>): Promise<void> {
    const transaction = this.base.transaction([VALUES, FILES], "readwrite", { durability: "strict" });
    for (const [path, content] of Object.entries(files)) {
      transaction.objectStore(FILES).put(content, `${digest}/${path}`);
    }
    transaction.objectStore(VALUES).put(state, `model:${state.name}`);
    await ended(transaction);
  }

  /** Throw away files that no installed version names. */
  async sweep(): Promise<void> {
    const states = await this.states();
    const named = new Set(states.flatMap(({ current, previous }) => [current, previous])
      .map((installed) => installed?.manifestSha256));
    const transaction = this.base.transaction(FILES, "readwrite"), files = transaction.objectStore(FILES);
    for (const key of (await done(files.getAllKeys())) as string[]) {
      if (!named.has(key.split("/")[0])) files.delete(key);
    }
    await ended(transaction);
  }
}
