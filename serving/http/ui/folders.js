// What was dropped, as files: of folders, the images in them and in all folders below.

export const MOST = 2000; // each becomes a card
const IMAGE_NAME = /\.(jpe?g|png|webp|gif|bmp|tiff?|avif)$/i;

// To be called while the drop is handled: later, the browser has forgotten what it was.
export function dropped(transfer) {
  const items = [...transfer.items].filter(({ kind }) => kind === "file");
  const entries = items.map((item) => item.webkitGetAsEntry?.() ?? null);
  const files = items.map((item) => item.getAsFile());
  return flat(entries, files);
}

// The first MOST files, whether there are more, and the folders in which there was none.
async function flat(entries, files) {
  const found = [];
  const barren = [];
  for (const [index, entry] of entries.entries()) {
    if (found.length > MOST) break;
    if (entry?.isDirectory) {
      const before = found.length;
      await walk(entry, found);
      if (found.length === before) barren.push(entry.name);
    } else if (files[index]) found.push(files[index]);
  }
  return { files: found.slice(0, MOST), more: found.length > MOST, barren };
}

// Ends one file beyond MOST, which says that there are more: the rest may be a whole disk.
async function walk(folder, found) {
  const entries = await everything(folder.createReader());
  entries.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
  for (const entry of entries) {
    if (found.length > MOST) return;
    if (entry.name.startsWith(".")) continue;
    if (entry.isDirectory) await walk(entry, found);
    else if (IMAGE_NAME.test(entry.name)) {
      try {
        found.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
      } catch {
        // gone, or not ours to read; what can be read is what was meant
      }
    }
  }
}

// A reader gives a hundred at a time, and none when it is through.
async function everything(reader) {
  const all = [];
  for (;;) {
    const some = await new Promise((resolve) => reader.readEntries(resolve, () => resolve([])));
    if (some.length === 0) return all;
    all.push(...some);
  }
}
