// An order of classes in which similar ones stand together: the leaves of an average-linkage tree.

/** Row numbers of a symmetric similarity matrix, similar rows beside each other; O(n²) by nearest-neighbour chains. */
export function clusterOrder(matrix) {
  const similarity = matrix.map((row) => [...row]);
  const leaves = matrix.map((_, index) => [index]); // of each cluster, in order; null where it was merged away
  const chain = [];
  for (let left = matrix.length; left > 1; left -= 1) {
    if (!chain.length) chain.push(leaves.findIndex(Boolean));
    while (true) {
      const last = chain.at(-1);
      const nearest = nearestTo(last, chain.at(-2), similarity, leaves);
      if (nearest === chain.at(-2)) break;
      chain.push(nearest);
    }
    merge(chain.pop(), chain.pop(), similarity, leaves, matrix);
  }
  return leaves.find(Boolean) ?? [];
}

/** The most similar cluster; the one before in the chain where several are, or the chain would not end. */
function nearestTo(cluster, before, similarity, leaves) {
  let best = before ?? -1;
  for (let other = 0; other < leaves.length; other += 1) {
    if (!leaves[other] || other === cluster || other === best) continue;
    if (best < 0 || similarity[cluster][other] > similarity[cluster][best]) best = other;
  }
  return best;
}

/** `from` joins `into`; each side is turned so that the most similar ends meet. */
function merge(from, into, similarity, leaves, matrix) {
  const [a, b] = [leaves[from], leaves[into]];
  for (let other = 0; other < leaves.length; other += 1) {
    if (!leaves[other] || other === from || other === into) continue;
    const mean = (a.length * similarity[from][other] + b.length * similarity[into][other]) / (a.length + b.length);
    similarity[into][other] = similarity[other][into] = mean;
  }
  const turns = [
    [a, b],
    [a, b.toReversed()],
    [a.toReversed(), b],
    [a.toReversed(), b.toReversed()],
  ];
  const meeting = ([left, right]) => matrix[left.at(-1)][right[0]];
  leaves[into] = turns.reduce((best, turn) => (meeting(turn) > meeting(best) ? turn : best)).flat();
  leaves[from] = null;
}
