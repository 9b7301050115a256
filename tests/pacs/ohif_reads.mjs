// What OHIF makes of a SEG or a Parametric Map: its own adapters and its own order of slices, in node.
//   node ohif_reads.mjs seg|pm RESULT SOURCE...    prints {"slices", "place": [x, y, z] in mm (LPS) of the highest values}
import fs from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const here = createRequire(pathToFileURL(process.cwd() + "/"));
const named = async (name) => import(pathToFileURL(here.resolve(name)));
const dcmjs = (await import(pathToFileURL(process.cwd() + "/node_modules/dcmjs/build/dcmjs.es.js"))).data;
const core = await named("@cornerstonejs/core");
const { Cornerstone3DSEG, Cornerstone3DPMAP } = await named("@cornerstonejs/adapters/cornerstone3D");

const bytes = (path) => new Uint8Array(fs.readFileSync(path)).buffer;
const headers = new Map();
for (const path of process.argv.slice(4)) {
  const read = dcmjs.DicomMessage.readFile(bytes(path));
  const header = dcmjs.DicomMetaDictionary.naturalizeDataset(read.dict);
  headers.set(`wadors:${header.SOPInstanceUID}`, header);
}

function metadata(type, id) {
  const header = headers.get(id);
  if (!header) return undefined;
  const orientation = header.ImageOrientationPatient.map(Number);
  const [down, right] = header.PixelSpacing.map(Number);
  const modules = {
    instance: header,
    generalSeriesModule: { seriesInstanceUID: header.SeriesInstanceUID, modality: header.Modality },
    generalImageModule: { sopInstanceUID: header.SOPInstanceUID },
    imagePlaneModule: {
      rows: header.Rows, columns: header.Columns, frameOfReferenceUID: header.FrameOfReferenceUID,
      imageOrientationPatient: orientation, rowCosines: orientation.slice(0, 3), columnCosines: orientation.slice(3),
      imagePositionPatient: header.ImagePositionPatient.map(Number),
      pixelSpacing: [down, right], rowPixelSpacing: down, columnPixelSpacing: right,
    },
    imagePixelModule: {
      bitsAllocated: header.BitsAllocated, bitsStored: header.BitsStored, highBit: header.HighBit,
      samplesPerPixel: 1, photometricInterpretation: "MONOCHROME2", pixelRepresentation: header.PixelRepresentation,
    },
  };
  return modules[type];
}
core.metaData.addProvider(metadata, 1000);
const provider = { get: (type, ...rest) => core.metaData.get(type, ...rest) };

const [kind, result] = process.argv.slice(2, 4);
const { sortedImageIds } = core.utilities.sortImageIdsAndGetSpacing([...headers.keys()]);
let slices;
if (kind === "pm") {
  const made = await Cornerstone3DPMAP.ParametricMap.generateToolState(sortedImageIds, bytes(result), provider);
  const { Rows, Columns } = metadata("instance", sortedImageIds[0]);
  const size = Rows * Columns;
  slices = sortedImageIds.map((_, place) => made.pixelData.slice(place * size, (place + 1) * size));
} else {
  const made = await Cornerstone3DSEG.Segmentation.generateToolState(sortedImageIds, bytes(result), provider);
  slices = made.labelMapImages[0].map((image) => Array.from(image.voxelManager.getScalarData()));
}

const highest = slices.reduce((most, values) => values.reduce((a, b) => Math.max(a, b), most), 0);
const sum = [0, 0, 0];
let count = 0;
slices.forEach((values, place) => {
  const plane = metadata("imagePlaneModule", sortedImageIds[place]);
  values.forEach((value, index) => {
    if (value !== highest) return;
    const [column, row] = [index % plane.columns, Math.floor(index / plane.columns)];
    for (let axis = 0; axis < 3; axis++) {
      sum[axis] += plane.imagePositionPatient[axis] + column * plane.columnPixelSpacing * plane.rowCosines[axis]
        + row * plane.rowPixelSpacing * plane.columnCosines[axis];
    }
    count += 1;
  });
});
console.log(JSON.stringify({ slices: slices.length, highest, place: sum.map((total) => total / count) }));
process.exit(0);
