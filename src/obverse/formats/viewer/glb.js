// Reads a binary glTF 2.0 file (Khronos specification, sections 3 and 4): triangles, normals, first texture
// coordinates, vertex colours, base colour. Node transforms are applied here, so what comes out is in world space.

const COMPONENTS = {
  5120: [Int8Array, 127], 5121: [Uint8Array, 255], 5122: [Int16Array, 32767],
  5123: [Uint16Array, 65535], 5125: [Uint32Array, 4294967295], 5126: [Float32Array, 1],
};
const WIDTHS = { SCALAR: 1, VEC2: 2, VEC3: 3, VEC4: 4 };
const KNOWN_EXTENSIONS = ["KHR_mesh_quantization", "KHR_materials_unlit"];

function readChunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.byteLength < 20 || view.getUint32(0, true) !== 0x46546c67) throw new Error("The mesh is not a GLB file.");
  let json = null, binary = new Uint8Array(0);
  for (let offset = 12; offset + 8 <= bytes.byteLength;) {
    const length = view.getUint32(offset, true), kind = view.getUint32(offset + 4, true);
    const body = bytes.subarray(offset + 8, offset + 8 + length);
    if (kind === 0x4e4f534a) json = JSON.parse(new TextDecoder().decode(body));
    else if (kind === 0x004e4942) binary = body;
    offset += 8 + length;
  }
  if (!json) throw new Error("The GLB file has no JSON chunk.");
  const unknown = (json.extensionsRequired || []).filter((name) => !KNOWN_EXTENSIONS.includes(name));
  if (unknown.length) throw new Error(`The GLB file needs ${unknown.join(", ")}, which this viewer does not read.`);
  return { json, binary };
}

function viewBytes({ json, binary }, index) {
  const view = json.bufferViews[index];
  if (json.buffers[view.buffer].uri) throw new Error("The GLB file points to a second file; this viewer reads one.");
  const start = view.byteOffset || 0;
  return { bytes: binary.subarray(start, start + view.byteLength), stride: view.byteStride || 0 };
}

// Accessor → { data, width }. Integers become floats in −1…1 where normalised; indices stay integers.
function readAccessor(file, index, { integers = false } = {}) {
  const accessor = file.json.accessors[index];
  if (accessor.sparse) throw new Error("The GLB file uses sparse accessors, which this viewer does not read.");
  const width = WIDTHS[accessor.type];
  const [Kind, scale] = COMPONENTS[accessor.componentType];
  const data = integers ? new Uint32Array(accessor.count * width) : new Float32Array(accessor.count * width);
  if (accessor.bufferView === undefined) return { data, width };
  const { bytes, stride } = viewBytes(file, accessor.bufferView);
  const size = Kind.BYTES_PER_ELEMENT, step = stride || size * width;
  const source = bytes.slice(accessor.byteOffset || 0); // a copy starts at an aligned address
  const values = new Kind(source.buffer, 0, Math.floor(source.byteLength / size));
  const divisor = accessor.normalized && !integers ? scale : 1;
  for (let i = 0; i < accessor.count; i++) {
    for (let k = 0; k < width; k++) data[i * width + k] = values[(i * step) / size + k] / divisor;
  }
  return { data, width };
}

function applyTransform(matrix, part) {
  const { rows, mirrored } = cofactors(matrix);
  const { positions, normals, indices } = part;
  for (let i = 0; i < positions.length; i += 3) {
    const x = positions[i], y = positions[i + 1], z = positions[i + 2];
    for (let k = 0; k < 3; k++) {
      positions[i + k] = matrix[k] * x + matrix[4 + k] * y + matrix[8 + k] * z + matrix[12 + k];
    }
  }
  for (let i = 0; normals && i < normals.length; i += 3) {
    const x = normals[i], y = normals[i + 1], z = normals[i + 2], sign = mirrored ? -1 : 1;
    for (let k = 0; k < 3; k++) normals[i + k] = sign * (rows[k] * x + rows[3 + k] * y + rows[6 + k] * z);
  }
  for (let i = 0; mirrored && i < indices.length; i += 3) {
    const second = indices[i + 1];
    indices[i + 1] = indices[i + 2];
    indices[i + 2] = second;
  }
}

function readPrimitive(file, primitive, matrix) {
  const { POSITION, NORMAL, TEXCOORD_0, COLOR_0 } = primitive.attributes;
  const positions = readAccessor(file, POSITION).data;
  const indices = primitive.indices === undefined
    ? Uint32Array.from({ length: positions.length / 3 }, (_, i) => i)
    : readAccessor(file, primitive.indices, { integers: true }).data;
  const material = (file.json.materials || [])[primitive.material] || {};
  const pbr = material.pbrMetallicRoughness || {};
  const part = {
    positions,
    indices,
    normals: NORMAL === undefined ? null : readAccessor(file, NORMAL).data,
    coordinates: TEXCOORD_0 === undefined ? null : readAccessor(file, TEXCOORD_0).data,
    colours: COLOR_0 === undefined ? null : readAccessor(file, COLOR_0),
    factor: pbr.baseColorFactor || [1, 1, 1, 1],
    texture: pbr.baseColorTexture ? pbr.baseColorTexture.index : null,
    cutoff: material.alphaMode === "MASK" ? material.alphaCutoff ?? 0.5 : 0,
    doubleSided: Boolean(material.doubleSided),
    unlit: Boolean((material.extensions || {}).KHR_materials_unlit),
  };
  applyTransform(matrix, part);
  return part;
}

async function readTexture(file, index) {
  const texture = file.json.textures[index];
  const image = (file.json.images || [])[texture.source];
  if (!image || image.bufferView === undefined) throw new Error("The GLB file's texture is not inside the file.");
  const { bytes } = viewBytes(file, image.bufferView);
  const blob = new Blob([bytes], { type: image.mimeType || "image/png" });
  const bitmap = await createImageBitmap(blob, { premultiplyAlpha: "none", colorSpaceConversion: "none" });
  return { bitmap, sampler: (file.json.samplers || [])[texture.sampler] || {} };
}

// GLB bytes → { parts, textures: Map(index → { bitmap, sampler }), bounds, vertices, faces }.
async function readGlb(bytes) {
  const file = readChunks(bytes);
  const { json } = file;
  const parts = [];
  const visit = (index, parent) => {
    const node = json.nodes[index], matrix = multiply(parent, nodeMatrix(node));
    if (node.mesh !== undefined) {
      for (const primitive of json.meshes[node.mesh].primitives) {
        if ((primitive.mode ?? 4) === 4 && primitive.attributes.POSITION !== undefined) {
          parts.push(readPrimitive(file, primitive, matrix));
        }
      }
    }
    for (const child of node.children || []) visit(child, matrix);
  };
  const scene = (json.scenes || [])[json.scene || 0];
  const roots = scene ? scene.nodes || [] : (json.nodes || []).map((_, index) => index);
  for (const root of roots) visit(root, identity());
  if (!parts.length) throw new Error("The GLB file holds no triangles.");
  const textures = new Map();
  for (const { texture } of parts) {
    if (texture !== null && !textures.has(texture)) textures.set(texture, await readTexture(file, texture));
  }
  const count = (list) => list.reduce((sum, value) => sum + value, 0);
  return {
    parts,
    textures,
    bounds: bounds(parts.map((part) => part.positions)),
    vertices: count(parts.map((part) => part.positions.length / 3)),
    faces: count(parts.map((part) => part.indices.length / 3)),
  };
}
