const FIRST = 100;
const LONGEST = 1000;

/** How long to wait after so many failures before, in milliseconds: from 100 ms to 1 s, with some randomness. */
export function pauseAfter(failures: number): number {
  return Math.min(LONGEST, FIRST * 2 ** failures) * (0.5 + Math.random() / 2);
}
