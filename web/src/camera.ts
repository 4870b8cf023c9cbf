// The camera, and frames of it as pixels.
import type { Frame } from "./protocol";

export type CameraFault = "denied" | "no_camera" | "camera_busy";

export class CameraError extends Error {
  constructor(readonly fault: CameraFault, message: string) {
    super(message);
  }
}

const FAULTS: Record<string, CameraFault> = {
  NotAllowedError: "denied", SecurityError: "denied", NotFoundError: "no_camera", OverconstrainedError: "no_camera",
};

export class Camera {
  private stream: MediaStream | null = null;
  private canvas = document.createElement("canvas");
  private facing: "environment" | "user" = "environment";
  /** Of the last start or stop: a start that waits for somebody's answer may be meant no more when that comes. */
  private turns = 0;
  onEnd: () => void = () => undefined;

  constructor(private readonly video: HTMLVideoElement) {}

  get on(): boolean {
    return this.stream !== null;
  }

  /** Whether it is on now: not where it was stopped or started anew meanwhile. @throws CameraError */
  async start(side: number): Promise<boolean> {
    this.stop();
    const turn = this.turns;
    try {
      const stream = await this.ask(side);
      if (turn !== this.turns) stream.getTracks().forEach((track) => track.stop());
      else await this.play(stream);
    } catch (error) {
      if (turn !== this.turns) return false;
      this.stop();
      if (error instanceof CameraError) throw error;
      const { name, message } = error as DOMException;
      throw new CameraError(FAULTS[name] ?? "camera_busy", `${name}: ${message}`);
    }
    return turn === this.turns;
  }

  private ask(side: number): Promise<MediaStream> {
    if (!navigator.mediaDevices) throw new CameraError("denied", "the browser gives no camera to this address");
    return navigator.mediaDevices.getUserMedia({
      audio: false,
      video: { facingMode: this.facing, width: { ideal: Math.max(side, 320) }, frameRate: { ideal: 30 } },
    });
  }

  private async play(stream: MediaStream): Promise<void> {
    this.stream = stream;
    stream.getVideoTracks()[0].addEventListener("ended", () => {
      if (this.stream === stream) this.onEnd();
    });
    this.video.srcObject = stream;
    await this.video.play();
  }

  stop(): void {
    this.turns++;
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = null;
    this.video.srcObject = null;
  }

  turn(): void {
    this.facing = this.facing === "user" ? "environment" : "user";
  }

  async several(): Promise<boolean> {
    const devices = await navigator.mediaDevices.enumerateDevices();
    return devices.filter((device) => device.kind === "videoinput").length > 1;
  }

  /** Call back with the time at which each new frame was there to see, until the camera is stopped. */
  watch(frame: (shown: number) => void): void {
    const stream = this.stream;
    const next = (now: number) => {
      if (this.stream !== stream || stream === null) return;
      frame(now);
      ask();
    };
    const ask = () => {
      if ("requestVideoFrameCallback" in this.video) this.video.requestVideoFrameCallback(next);
      else requestAnimationFrame(next);
    };
    ask();
  }

  /** The newest frame, its longer side at most `side` pixels. */
  grab(side: number): Frame {
    return pixelsOf(this.video, this.video.videoWidth, this.video.videoHeight, side, this.canvas);
  }
}

export function pixelsOf(
  source: CanvasImageSource, width: number, height: number, side: number, canvas = document.createElement("canvas"),
): Frame {
  const scale = Math.min(1, side / Math.max(width, height));
  const size = { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
  if (canvas.width !== size.width || canvas.height !== size.height) Object.assign(canvas, size);
  const context = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" })!;
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, size.width, size.height);
  return { rgba: context.getImageData(0, 0, size.width, size.height).data as Frame["rgba"], ...size };
}
