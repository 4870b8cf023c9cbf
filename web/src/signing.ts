// Signed descriptions of a channel's newest version, as docs/updates.md has them; checked before anything in them counts.

const PREFIX = "pocketvit-channel-1\n";
const MOST_BYTES = 32_768;
const SHA256 = /^[0-9a-f]{64}$/;
const FIELDS = ["schema_version", "name", "version", "counter", "pack", "manifest_sha256", "time"];

export interface Description {
  name: string;
  version: string;
  counter: number;
  manifest_sha256: string;
}

export interface Signed {
  description: Description;
  payloadSha256: string;
  keyId: string;
}

export async function sha256(content: Uint8Array | string): Promise<string> {
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>));
  return Array.from(digest, (value) => value.toString(16).padStart(2, "0")).join("");
}

function base64(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

interface Key {
  id: string;
  key: CryptoKey;
}

async function keyOf(pem: string): Promise<Key> {
  const der = base64(pem.replace(/-----[^-]+-----|\s/g, ""));
  const key = await crypto.subtle.importKey("spki", der, "Ed25519", false, ["verify"]);
  return { id: (await sha256(der.slice(-32))).slice(0, 16), key };
}

interface Envelope {
  payload: string;
  signatures: { key_id: string; signature: string }[];
}

/**
 * The description in `text`, after one of its signatures was found to be of one of the pinned keys.
 * @throws Error where it is none, nobody pinned has signed it, or what is signed makes no sense.
 */
export async function opened(text: string, pems: string[]): Promise<Signed> {
  if (text.length > MOST_BYTES) throw new Error("the description is too large");
  const envelope = JSON.parse(text) as Envelope, signatures = envelope?.signatures;
  // eslint-disable-next-line no-control-regex -- all of ASCII is meant
  if (typeof envelope?.payload !== "string" || !/^[\x00-\x7f]*$/.test(envelope.payload)) {
    throw new Error("the description has no payload in ASCII");
  }
  if (!Array.isArray(signatures) || signatures.length < 1 || signatures.length > 8) {
    throw new Error("the description has no one to eight signatures");
  }
  const signed = new TextEncoder().encode(PREFIX + envelope.payload);
  for (const { id, key } of await Promise.all(pems.map(keyOf))) {
    for (const { key_id, signature } of signatures) {
      if (key_id === id && (await verifies(key, signature, signed))) {
        const description = parsed(envelope.payload);
        return { description, payloadSha256: await sha256(envelope.payload), keyId: id };
      }
    }
  }
  throw new Error("no pinned key has signed the description");
}

async function verifies(key: CryptoKey, signature: string, signed: Uint8Array<ArrayBuffer>): Promise<boolean> {
  try {
    return await crypto.subtle.verify("Ed25519", key, base64(signature), signed);
  } catch {
    return false; // no base64
  }
}

function parsed(payload: string): Description {
  const found = JSON.parse(payload) as Description & { schema_version: number };
  const plain = Object.keys(found).sort().join() === [...FIELDS].sort().join();
  const counted = Number.isSafeInteger(found.counter) && found.counter >= 1;
  const named = typeof found.name === "string" && /^\d+\.\d+\.\d+$/.test(found.version);
  if (found.schema_version !== 1 || !plain || !counted || !named || !SHA256.test(found.manifest_sha256)) {
    throw new Error("the signed description makes no sense");
  }
  return found;
}
