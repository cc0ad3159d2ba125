// A dropped folder as a zip, without compression: pictures are compressed already.

const MOST_FILES = 65_535;
const MOST_BYTES = 4 * 2 ** 30 - 1;
const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value >>> 0;
});

/** Files below the folders of a drop: [{path, file}]. */
export async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const found = [];
  for (const entry of entries) await collect(entry, found);
  return found;
}

async function collect(entry, found) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    found.push({ path: entry.fullPath.replace(/^\//, ""), file });
    return;
  }
  const reader = entry.createReader();
  while (true) {
    const batch = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // a hundred at a time
    if (!batch.length) return;
    for (const child of batch) await collect(child, found);
  }
}

/** A zip of the files, made of their own bytes: only one of them is in memory at a time. */
export async function zip(files) {
  const numBytes = files.reduce((sum, { file }) => sum + file.size, 0);
  if (files.length > MOST_FILES || numBytes > MOST_BYTES) throw new Error("The folder is too large to pack here; make a zip of it and drop that.");
  const [parts, directory] = [[], []];
  let offset = 0;
  for (const { path, file } of files) {
    const name = new TextEncoder().encode(path);
    const checksum = crc(new Uint8Array(await file.arrayBuffer()));
    const local = header(0x04034b50, 30, name, checksum, file.size);
    parts.push(local, name, file);
    directory.push(central(name, checksum, file.size, offset), name);
    offset += local.byteLength + name.length + file.size;
  }
  const length = directory.reduce((sum, part) => sum + part.byteLength, 0);
  return new Blob([...parts, ...directory, end(files.length, length, offset)], { type: "application/zip" });
}

function header(signature, length, name, checksum, size) {
  const view = new DataView(new ArrayBuffer(length));
  const at = signature === 0x04034b50 ? 4 : 6;
  view.setUint32(0, signature, true);
  view.setUint16(at, 20, true); // version
  view.setUint16(at + 2, 0x800, true); // names are UTF-8
  view.setUint16(at + 8, 0x21, true); // date: 1980-01-01
  view.setUint32(at + 10, checksum, true);
  view.setUint32(at + 14, size, true);
  view.setUint32(at + 18, size, true);
  view.setUint16(at + 22, name.length, true);
  return view.buffer;
}

function central(name, checksum, size, offset) {
  const buffer = header(0x02014b50, 46, name, checksum, size);
  const view = new DataView(buffer);
  view.setUint16(4, 20, true);
  view.setUint32(42, offset, true);
  return buffer;
}

function end(count, length, offset) {
  const view = new DataView(new ArrayBuffer(22));
  view.setUint32(0, 0x06054b50, true);
  view.setUint16(8, count, true);
  view.setUint16(10, count, true);
  view.setUint32(12, length, true);
  view.setUint32(16, offset, true);
  return view.buffer;
}

function crc(data) {
  let value = 0xffffffff;
  for (const byte of data) value = CRC_TABLE[(value ^ byte) & 0xff] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}
