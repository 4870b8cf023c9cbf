// The page's elements: texts in the chosen language, problems and notes, the download, what the model is.
import { keepLanguage, startLanguage, text, type Key, type Language, type Values } from "./texts";

export interface Action {
  label: Key;
  run(): void;
}

export interface Problem {
  title: Key;
  todo: Key;
  values?: Values;
  /** What the browser or the engine says, as it is. */
  detail?: string;
  reason?: Key;
  action?: Action;
  /** A field whose content is handed over. */
  ask?: { label: Key; send: Key; run(value: string): void };
}

export function element<T extends HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no ${id}`);
  return found as T;
}

export function megabytes(bytes: number): string {
  return bytes < 1e5 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(bytes < 1e8 ? 1 : 0)} MB`;
}

export class View {
  language: Language = startLanguage();
  private readonly shown = new Map<string, { problem: Problem; note: boolean }>();
  private status: { key: Key; values: Values } | null = null;
  /** Called after the language has changed: texts that were set with values are set again. */
  onLanguage: () => void = () => undefined;

  constructor() {
    const choice = element<HTMLSelectElement>("language");
    choice.value = this.language;
    choice.addEventListener("change", () => this.speak(choice.value as Language));
    this.translate();
  }

  t(key: Key, values: Values = {}): string {
    return text(this.language, key, values);
  }

  private speak(language: Language): void {
    this.language = language;
    keepLanguage(language);
    this.translate();
    this.renderProblems();
    if (this.status) this.say(this.status.key, this.status.values);
    this.onLanguage();
  }

  private translate(): void {
    document.documentElement.lang = this.language;
    for (const each of document.querySelectorAll<HTMLElement>("[data-t]")) each.textContent = this.t(each.dataset.t as Key);
    for (const each of document.querySelectorAll<HTMLElement>("[data-t-label]")) {
      each.setAttribute("aria-label", this.t(each.dataset.tLabel as Key));
    }
  }

  /** Give an element another text of the table, that follows the language too. */
  label(id: string, key: Key): void {
    const target = element(id);
    target.dataset.t = key;
    target.textContent = this.t(key);
  }

  say(key: Key, values: Values = {}): void {
    this.status = { key, values };
    element("status").classList.remove("bad");
    this.set("status", this.t(key, values)); // the same words are not announced twice
  }

  /** Something that went wrong with what somebody just did: marked, in sight, and announced also where it was before. */
  urge(key: Key): void {
    const place = element("status");
    this.hush();
    requestAnimationFrame(() => {
      this.say(key);
      place.classList.add("bad");
      place.scrollIntoView({ block: "nearest" });
    });
  }

  /** Nothing is going on. */
  hush(): void {
    this.status = null;
    element("status").textContent = "";
  }

  /** Something that keeps the page from working: announced at once. */
  problem(id: string, problem: Problem): void {
    this.hush();
    this.shown.set(id, { problem, note: false });
    this.renderProblems();
  }

  /** Something to know, that hinders nothing. */
  note(id: string, problem: Problem): void {
    this.shown.set(id, { problem, note: true });
    this.renderProblems();
  }

  clear(...ids: string[]): void {
    if (ids.map((id) => this.shown.delete(id)).some(Boolean)) this.renderProblems();
  }

  private renderProblems(): void {
    for (const [place, wanted] of [["problems", false], ["notes", true]] as const) {
      const shown = [...this.shown].filter(([, { note }]) => note === wanted);
      element(place).replaceChildren(...shown.map(([id, { problem }]) => this.box(id, problem, wanted)));
    }
  }

  private box(id: string, problem: Problem, note: boolean): HTMLElement {
    const box = make("div", note ? "note" : "problem");
    box.dataset.id = id;
    if (note) box.setAttribute("role", "status");
    box.append(make("strong", "", this.t(problem.title, problem.values)));
    if (problem.reason) box.append(make("p", "", this.t(problem.reason)));
    box.append(make("p", "", this.t(problem.todo, problem.values)));
    if (problem.detail) box.append(make("p", "detail", problem.detail));
    const { action, ask } = problem;
    if (action) {
      const button = make("button", "", this.t(action.label));
      button.addEventListener("click", () => action.run());
      box.append(button);
    }
    if (ask) box.append(this.form(id, ask));
    return box;
  }

  private form(id: string, ask: NonNullable<Problem["ask"]>): HTMLElement {
    const form = document.createElement("form"), field = document.createElement("input");
    field.id = `${id}-field`;
    field.type = "password";
    field.autocomplete = "off";
    field.setAttribute("aria-label", this.t(ask.label));
    form.append(field, make("button", "", this.t(ask.send)));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      ask.run(field.value.trim());
    });
    return form;
  }

  progress(have: number | null, all = 0): void {
    element("download").hidden = have === null;
    if (have === null) return;
    element<HTMLProgressElement>("progress").value = all ? have / all : 0;
    element("progress-text").textContent = this.t("downloaded", { have: megabytes(have), all: megabytes(all) });
  }

  set(id: string, value: string): void {
    const target = element(id);
    if (target.textContent !== value) target.textContent = value;
  }
}

export function make(tag: string, className = "", content = ""): HTMLElement {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (content) made.textContent = content;
  return made;
}
