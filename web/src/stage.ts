// The picture and its answer: before and after behind one slider, labels with their path, the scale of depth, the
// legend of masks, boxes with their scores.
import { drawBoxes } from "./detect";
import type { Part } from "./segment";
import type { Answer, BoxAnswer, LabelAnswer, PictureAnswer } from "./tasks";
import { element, make, type View } from "./view";

/** Lines of a legend, and boxes that are listed beneath the picture, at most. */
const MOST_LINES = 8;

export class Stage {
  private readonly before = element<HTMLCanvasElement>("before");
  private readonly after = element<HTMLCanvasElement>("after");
  private readonly pictures = element("pictures");
  private readonly slider = element<HTMLInputElement>("compare");
  last: Answer | null = null;

  constructor(private readonly view: View) {
    this.slider.addEventListener("input", () => this.move());
    const drag = (event: PointerEvent) => {
      if (event.buttons === 0 && event.type !== "pointerdown") return;
      const box = this.pictures.getBoundingClientRect();
      this.slider.value = String(Math.round((100 * (event.clientX - box.left)) / box.width));
      this.move();
    };
    this.pictures.addEventListener("pointerdown", drag);
    this.pictures.addEventListener("pointermove", drag);
    this.move();
  }

  private move(): void {
    this.pictures.style.setProperty("--cut", `${this.slider.value}%`);
    this.slider.setAttribute("aria-valuetext", `${this.slider.value} %`);
  }

  draw(answer: Answer): void {
    this.last = answer;
    element("empty").hidden = true;
    this.pictures.hidden = false;
    const { frame } = answer, picture = answer.kind === "picture";
    element("stage").classList.toggle("single", !picture);
    element("compare-row").hidden = !picture;
    if (picture) put(this.before, frame.rgba, frame.width, frame.height);
    put(this.after, picture ? answer.rgba : frame.rgba, frame.width, frame.height);
    if (answer.kind === "boxes") drawBoxes(this.after, answer.boxes, answer.labels);
    this.caption();
  }

  /** Words to the picture, in the language of the page. */
  caption(): void {
    const answer = this.last, place = element("answer");
    const content = answer?.kind === "labels" ? this.labels(answer)
      : answer?.kind === "boxes" ? this.boxes(answer)
      : answer?.range ? [this.scale(answer)]
      : answer?.parts ? [this.legend(answer.parts)] : [];
    place.hidden = content.length === 0;
    place.replaceChildren(...content);
  }

  private labels(answer: LabelAnswer): HTMLElement[] {
    const path = answer.path.map(({ label, score }) => `${label} ${percent(score)}`).join(" › ");
    const list = document.createElement("ol");
    for (const { label, score } of answer.top) list.append(scored(label, score));
    return [make("p", "path", path), list];
  }

  private legend(parts: Part[]): HTMLElement {
    const list = document.createElement("ul");
    list.className = "legend";
    for (const { label, colour, share } of parts.slice(0, MOST_LINES)) {
      const row = make("li"), patch = make("span", "patch");
      patch.style.background = `rgb(${colour.join(",")})`;
      patch.setAttribute("aria-hidden", "true");
      row.append(patch, make("span", "", label), make("span", "", percent(share)));
      list.append(row);
    }
    return list;
  }

  private boxes({ boxes, labels }: BoxAnswer): HTMLElement[] {
    const list = document.createElement("ol");
    for (const { index, score } of boxes.slice(0, MOST_LINES)) list.append(scored(labels[index], score));
    return boxes.length ? [list] : [];
  }

  private scale({ range }: PictureAnswer): HTMLElement {
    const row = make("div", "scale"), { low, high, metric } = range!;
    const end = (value: number) => (metric ? ` ${value.toFixed(2)} m` : "");
    row.append(make("span", "", this.view.t("near") + end(low)), make("span", "", this.view.t("far") + end(high)));
    return row;
  }

  /** What is shown as a PNG; of labels the picture itself. */
  async save(name: string): Promise<void> {
    const blob = await new Promise<Blob | null>((resolve) => this.after.toBlob(resolve, "image/png"));
    if (!blob) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${name}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }
}

function scored(label: string, score: number): HTMLElement {
  const row = make("li"), bar = document.createElement("meter");
  bar.value = score;
  bar.setAttribute("aria-hidden", "true");
  row.append(make("span", "", label), bar, make("span", "", percent(score)));
  return row;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}

function put(canvas: HTMLCanvasElement, rgba: Uint8ClampedArray<ArrayBuffer>, width: number, height: number): void {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  canvas.getContext("2d")!.putImageData(new ImageData(rgba, width, height), 0, 0);
}
