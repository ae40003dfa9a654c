const FIRST = 100;
const LONGEST = 1000;

/** How long to wait after so many failures before, in milliseconds: from 100 ms to 1 s, with some randomness. */
export function pauseAfter(failures: number): number {
  return Math.min(LONGEST, FIRST * 2 ** failures) * (0.5 + Math.random() / 2);
}

/** When to connect again. */
export class Backoff {
  #failures = 0;
  #next = 0;

  /** How long the next attempt has to wait, in milliseconds. */
  get left(): number {
    return this.#next - performance.now();
  }

  failed(): void {
    this.#next = performance.now() + pauseAfter(this.#failures++);
  }

  succeeded(): void {
    this.#failures = 0;
  }
}
