/** Light or dark: as the system has it until somebody chooses. */
const listeners = [];
const system = matchMedia("(prefers-color-scheme: dark)");
let chosen = null;

export function isDark() {
  return (chosen ?? (system.matches ? "dark" : "light")) === "dark";
}

export function onTheme(listener) {
  listeners.push(listener);
}

export function switchTheme() {
  chosen = isDark() ? "light" : "dark";
  applyTheme();
}

export function applyTheme() {
  document.documentElement.dataset.theme = isDark() ? "dark" : "light";
  for (const listener of listeners) listener();
}

system.addEventListener("change", applyTheme);
