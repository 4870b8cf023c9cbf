// Registers the service worker that keeps the app; browsers refuse it where they do not trust the certificate.

export function looking(notKept: () => void): void {
  void navigator.storage?.persist?.(); // or the browser may throw the models away when it wants the room
  if (!("serviceWorker" in navigator)) return notKept();
  navigator.serviceWorker.register("sw.js").catch(notKept);
}
