// What this browser has: threads, WebGPU, memory, battery.

/** Threads that this page may use: one where it is not cross-origin isolated, since they need shared memory. */
export function mostThreads(): number {
  return globalThis.crossOriginIsolated ? Math.max(1, Math.min(8, navigator.hardwareConcurrency || 1)) : 1;
}

export async function hasWebGPU(): Promise<boolean> {
  return "gpu" in navigator && navigator.gpu !== undefined && (await navigator.gpu.requestAdapter()) !== null;
}

interface MemoryPerformance extends Performance {
  memory?: { usedJSHeapSize: number };
  measureUserAgentSpecificMemory?(): Promise<{ bytes: number }>;
}

const PATIENCE_MS = 30_000;

/** Bytes that the page and its workers take, or null where the browser does not tell. It waits for a collection. */
export async function memoryBytes(): Promise<number | null> {
  const source = performance as MemoryPerformance, heap = source.memory?.usedJSHeapSize ?? null;
  const late = new Promise<number | null>((resolve) => setTimeout(resolve, PATIENCE_MS, heap));
  try {
    const measured = source.measureUserAgentSpecificMemory?.().then(({ bytes }) => bytes);
    return measured ? await Promise.race([measured, late]) : heap;
  } catch {
    return heap; // only where it is cross-origin isolated
  }
}

interface BatteryNavigator extends Navigator {
  getBattery?(): Promise<{ level: number; charging: boolean }>;
}

/** Share of the battery that is left, 0 to 1, or null where the browser does not tell. */
export async function battery(): Promise<{ level: number; charging: boolean } | null> {
  try {
    return (await (navigator as BatteryNavigator).getBattery?.()) ?? null;
  } catch {
    return null;
  }
}
