// A photo of the gallery as pixels, upright, made smaller where it is large: a phone has little memory.
import { pixelsOf } from "./camera";
import type { Frame } from "./protocol";

export const LONGEST = 1600;

/** @throws DOMException where the browser cannot read the file as a picture. */
export async function photoFrame(file: Blob): Promise<Frame> {
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "default" });
  try {
    return pixelsOf(bitmap, bitmap.width, bitmap.height, LONGEST);
  } finally {
    bitmap.close();
  }
}
