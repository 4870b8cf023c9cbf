// Frames per second, latency and dropped frames over the last seconds.

const KEPT = 120;
const WINDOW_MS = 5000;

export class Meters {
  private latencies: number[] = [];
  private ends: number[] = [];
  came = 0;
  answered = 0;
  dropped = 0;

  frame(): void {
    this.came++;
  }

  drop(): void {
    this.dropped++;
  }

  /** An answer is drawn, `ms` after its frame was there to see. */
  answer(ms: number, now = performance.now()): void {
    this.answered++;
    this.latencies = [...this.latencies.slice(1 - KEPT), ms];
    this.ends = [...this.ends.filter((end) => now - end < WINDOW_MS), now];
  }

  get fps(): number | null {
    if (this.ends.length < 2) return null;
    return ((this.ends.length - 1) * 1000) / (this.ends[this.ends.length - 1] - this.ends[0]);
  }

  /** Of the last answers, e.g. 0.5 for the median. */
  latency(share: number): number | null {
    if (!this.latencies.length) return null;
    const sorted = [...this.latencies].sort((a, b) => a - b);
    return sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] ?? sorted[0];
  }

  reset(): void {
    this.latencies = [];
    this.ends = [];
    this.came = this.answered = this.dropped = 0;
  }
}
