// How many entries a budget gives each head.

const CONTEXTS = [4096, 32768, 131072];

// The entries of a context that each head of a budget keeps, a row a layer.
const keptOf = (budget, context) =>
  budget.tokens.map((row, layer) =>
    row.map((tokens, column) => {
      const ratio = budget.ratio ? Math.ceil(Math.round(budget.ratio[layer][column] * context * 1e6) / 1e6) : 0;
      return Math.min(context, Math.max(tokens, ratio));
    }),
  );

// The column of a query head in a budget, and the first query head of a column.
const columnIn = (budget, head) => (budget.granularity === "kv" ? Math.floor(head / groupSize(budget)) : head);
const headIn = (budget, column) => (budget.granularity === "kv" ? column * groupSize(budget) : column);
const entriesOf = (budget, layer, head, context) =>
  keptOf({ ...budget, tokens: [budget.tokens[layer]], ratio: budget.ratio && [budget.ratio[layer]] }, context)[0][
    columnIn(budget, head)
  ];

// The budgets of a model, smallest first.
const budgetsOf = (model) =>
  record.budgets
    .filter((budget) => modelKey(budget.model) === modelKey(model))
    .sort((a, b) => a.kept[1].tokens - b.kept[1].tokens);

function budgetLabel(budget) {
  const { name, budget: size, ...options } = budget.strategy;
  const own =
    size ??
    (options.sparsity !== undefined
      ? `sparsity ${options.sparsity}`
      : options.top_k !== undefined
        ? `top ${options.top_k}`
        : "");
  return `${name} ${own}`.trim();
}
