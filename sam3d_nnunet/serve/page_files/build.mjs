// Bundles NiiVue into FOLDER/niivue.js and writes the licences of all that is in it: node build.mjs FOLDER
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";

const folder = process.argv[2] ?? "built";
const result = await build({
  entryPoints: ["viewer_entry.js"],
  bundle: true,
  alias: { zarrita: "./no_zarr.js" },

  format: "esm",
  minify: true,
  legalComments: "none", // the licences are written below
  metafile: true,
  outfile: join(folder, "niivue.js"),
  logLevel: "error",
});

const names = Object.keys(result.metafile.inputs)
  .map((file) => file.match(/^node_modules\/((?:@[^/]+\/)?[^/]+)\//)?.[1])
  .filter(Boolean);
const licences = [...new Set(names)].sort().map((name) => {
  const { version, license } = JSON.parse(readFileSync(join("node_modules", name, "package.json"), "utf8"));
  return `${name} ${version} (${license})\n\n${licenceText(name)}`;
});
mkdirSync(folder, { recursive: true });
writeFileSync(join(folder, "LICENCES.txt"), licences.join(`\n\n${"-".repeat(80)}\n\n`) + "\n");

function licenceText(name) {
  const own = join("licences", `${name.replace("/", "_")}.txt`); // of packages that come without one
  if (existsSync(own)) return readFileSync(own, "utf8").trim();
  const place = join("node_modules", name);
  const file = readdirSync(place).find((file) => /^licen[cs]e/i.test(file));
  if (!file) throw new Error(`${name} has no licence file: add ${own}.`);
  return readFileSync(join(place, file), "utf8").trim();
}
