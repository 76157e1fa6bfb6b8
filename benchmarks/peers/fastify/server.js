// Node.js without any Python: Fastify, sharp (libvips) and ONNX Runtime, no batching; what most
// people who write JavaScript would write first.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const fastify = require("fastify");
const ort = require("onnxruntime-node");
const sharp = require("sharp");

const SHORT = 256, SIZE = 224, TOP = 5;
const modelPath = process.env.MODEL_PATH;
const { labels } = JSON.parse(fs.readFileSync(path.join(path.dirname(modelPath), "spec.json"), "utf8"));

// As Python's `round`, which torchvision's crop uses.
function roundHalfEven(x) {
  const up = Math.round(x);
  return x % 1 === 0.5 && up % 2 ? up - 1 : up;
}

// An encoded image -> uint8[224,224,3], RGB, by the rule of torchvision's preset (peers/common.py).
async function decode(data) {
  const image = sharp(data);
  const { autoOrient } = await image.metadata();
  const { width, height } = autoOrient;
  const long = Math.floor((SHORT * Math.max(width, height)) / Math.min(width, height));
  const [w, h] = width <= height ? [SHORT, long] : [long, SHORT];
  const box = { left: roundHalfEven((w - SIZE) / 2), top: roundHalfEven((h - SIZE) / 2), width: SIZE, height: SIZE };
  return image.autoOrient().toColourspace("srgb").removeAlpha()
    .resize(w, h, { fit: "fill", kernel: "linear" })
    .extract(box).raw().toBuffer();
}

function reply(probabilities) {
  const best = Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a]);
  return {
    predictions: best.slice(0, TOP).map((index) => ({ label: labels[index], probability: probabilities[index] })),
  };
}

async function main() {
  const session = await ort.InferenceSession.create(modelPath);
  const app = fastify({ logger: false, bodyLimit: 100e6 });
  app.addContentTypeParser("image/jpeg", { parseAs: "buffer" }, async (request, body) => body);
  app.post("/classify", async (request) => {
    const pixels = new ort.Tensor("uint8", await decode(request.body), [1, SIZE, SIZE, 3]);
    const { probabilities } = await session.run({ images: pixels });
    return reply(probabilities.data);
  });
  await app.listen({ host: "127.0.0.1", port: Number(process.env.PORT) });
}

main();
