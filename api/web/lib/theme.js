// Light and dark: the person's choice, else the system's; and colours for what is drawn on canvas.

import { useEffect, useState } from "./html.js";

const KEY = "alignclip-theme";
const system = matchMedia("(prefers-color-scheme: dark)");
const listeners = new Set();

export const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";

export function toggleTheme() {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  localStorage.setItem(KEY, theme);
  for (const listener of listeners) listener();
}

addEventListener("storage", ({ key, newValue }) => {
  if (key !== KEY) return; // another tab has changed it
  if (newValue) document.documentElement.dataset.theme = newValue;
  else delete document.documentElement.dataset.theme;
  listeners.forEach((listener) => listener());
});
system.addEventListener("change", () => listeners.forEach((listener) => listener()));

/** "light" or "dark"; parts that draw on canvas draw again when it changes. */
export function useTheme() {
  const [dark, setDark] = useState(isDark);
  useEffect(() => {
    const listener = () => setDark(isDark());
    listeners.add(listener);
    return () => listeners.delete(listener);
  }, []);
  return dark ? "dark" : "light";
}

const probe = document.createElement("i");

/** A custom property of the style sheet as a colour that canvas understands. */
export function colourOf(property) {
  if (!probe.isConnected) {
    probe.hidden = true;
    document.documentElement.append(probe);
  }
  probe.style.color = `var(${property})`;
  return getComputedStyle(probe).color;
}
