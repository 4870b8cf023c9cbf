// Keeps the app itself on the phone, so that it opens without a network. Models are kept by models.ts, proven; what the
// server says (config.json, channels) always comes from the network.
const worker = self as unknown as ServiceWorkerGlobalScope;
const ASSETS = JSON.parse("__ASSETS__") as string[];
const NAME = `pocketvit-app-${hash(ASSETS.join())}`;
const SHELL = "./";
/** In another network the server's address is often silent, for minutes. */
const PATIENCE_MS = 2500;

function hash(text: string): string {
  let value = 5381;
  for (const letter of text) value = ((value * 33) ^ letter.codePointAt(0)!) >>> 0;
  return value.toString(36);
}

worker.addEventListener("install", (event) => {
  event.waitUntil(
    caches.open(NAME)
      .then((cache) => cache.addAll([SHELL, "manifest.webmanifest", ...ASSETS.filter((name) => name !== "index.html")]))
      .then(() => worker.skipWaiting()),
  );
});

worker.addEventListener("activate", (event) => {
  event.waitUntil(
    caches.keys()
      .then((names) => names.filter((name) => name.startsWith("pocketvit-app-") && name !== NAME))
      .then((old) => Promise.all(old.map((name) => caches.delete(name))))
      .then(() => worker.clients.claim()),
  );
});

worker.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url), scope = new URL(worker.registration.scope);
  if (event.request.method !== "GET" || url.origin !== scope.origin || !url.pathname.startsWith(scope.pathname)) return;
  const name = url.pathname.slice(scope.pathname.length);
  if (name === "config.json" || name.startsWith("models/") || name === "sw.js") return;
  event.respondWith(name.startsWith("assets/") ? fromCache(event.request) : fromNetwork(event.request));
});

/** Names with a digest never change their content. */
async function fromCache(request: Request): Promise<Response> {
  const cache = await caches.open(NAME), kept = await cache.match(request, { ignoreSearch: true });
  if (kept) return kept;
  const fresh = await fetch(request);
  if (fresh.ok) await cache.put(request, fresh.clone());
  return fresh;
}

/** The page itself: the newest where the server answers soon, else what is kept. */
async function fromNetwork(request: Request): Promise<Response> {
  const cache = await caches.open(NAME);
  const kept = await cache.match(request.mode === "navigate" ? SHELL : request, { ignoreSearch: true });
  if (!kept) return fetch(request);
  const late = new Promise<Response>((resolve) => setTimeout(resolve, PATIENCE_MS, kept));
  const fresh = fetch(request).then((answer) => (answer.ok ? answer : kept)).catch(() => kept);
  return Promise.race([fresh, late]);
}
