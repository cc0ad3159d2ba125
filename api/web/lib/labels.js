// What a person types as labels -> names.

/** Names between commas or line ends, each once. */
export const splitLabels = (text) => [...new Set(text.split(/[,\n]/).map((name) => name.trim()).filter(Boolean))];
