/* Which words differ between two texts: the longest common subsequence of their words. */

const WORD = /\p{Script=Han}\s*|[\p{L}\p{M}\p{N}_'’]+\s*|\S\s*|^\s+/gu;
const LARGEST_TABLE = 9_000_000;

/** Both texts as runs of {text, changed}; null where they are too long to compare. */
function compareWords(left, right) {
  const a = left.match(WORD) ?? [], b = right.match(WORD) ?? [];
  const wordsA = a.map((word) => word.trim()), wordsB = b.map((word) => word.trim());
  let start = 0, endA = a.length, endB = b.length;
  while (start < endA && start < endB && wordsA[start] === wordsB[start]) start++;
  while (endA > start && endB > start && wordsA[endA - 1] === wordsB[endB - 1]) { endA--; endB--; }
  if ((endA - start + 1) * (endB - start + 1) > LARGEST_TABLE) return null;
  const [keptA, keptB] = commonWords(wordsA.slice(start, endA), wordsB.slice(start, endB));
  return { left: joinRuns(a, keptA, start, endA), right: joinRuns(b, keptB, start, endB) };
}

/** For each word of either list, whether it belongs to the longest common subsequence. */
function commonWords(a, b) {
  const width = b.length + 1;
  const best = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      const at = i * width + j;
      best[at] = a[i] === b[j] ? best[at + width + 1] + 1 : Math.max(best[at + width], best[at + 1]);
    }
  }
  const keptA = new Array(a.length).fill(false), keptB = new Array(b.length).fill(false);
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    if (a[i] === b[j]) { keptA[i++] = true; keptB[j++] = true; }
    else if (best[(i + 1) * width + j] >= best[i * width + j + 1]) i++;
    else j++;
  }
  return [keptA, keptB];
}

/** Neighbouring words of one kind as one run; words outside start..end are common to both texts. */
function joinRuns(words, kept, start, end) {
  const runs = [];
  words.forEach((text, place) => {
    const changed = place >= start && place < end && !kept[place - start];
    const last = runs[runs.length - 1];
    if (last && last.changed === changed) last.text += text;
    else runs.push({ text, changed });
  });
  return runs;
}
