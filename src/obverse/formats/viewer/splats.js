// Draws 3D Gaussians: each is projected to an ellipse in the image by the local affine approximation of EWA splatting
// (Zwicker et al. 2001; Kerbl et al. 2023), and the ellipses are blended back to front in display colour values.
//
// The data texture is the .splat file itself: a record of 32 bytes is two RGBA32UI texels holding position (3 floats),
// standard deviations (3 floats), RGBA (4 bytes) and the quaternion w, x, y, z (4 bytes, (b − 128) / 128).
// A .splat file stores (x, −y, −z); flip() undoes that as part of the view matrix, which turns positions and axes alike.

const RECORD_WORDS = 8;
const RECORDS_PER_ROW = 1024;
const flip = (scale) => new Float32Array([scale, 0, 0, 0, 0, -scale, 0, 0, 0, 0, -scale, 0, 0, 0, 0, 1]);

const SPLAT_VERTEX = `#version 300 es
precision highp float;
precision highp int;
precision highp usampler2D;
layout(location = 0) in uint index;
uniform usampler2D records;
uniform mat4 view, projection;
uniform vec2 viewport;
uniform float focal, near;
out vec2 offset;
out vec4 colour;

vec4 bytes(uint word) {
  return vec4(word & 255u, (word >> 8) & 255u, (word >> 16) & 255u, word >> 24);
}

mat3 rotation(vec4 q) {
  float w = q.x, x = q.y, y = q.z, z = q.w;
  return mat3(
    1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y + w * z), 2.0 * (x * z - w * y),
    2.0 * (x * y - w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z + w * x),
    2.0 * (x * z + w * y), 2.0 * (y * z - w * x), 1.0 - 2.0 * (x * x + y * y));
}

void main() {
  ivec2 cell = ivec2(2 * int(index % ${RECORDS_PER_ROW}u), int(index / ${RECORDS_PER_ROW}u));
  uvec4 first = texelFetch(records, cell, 0), second = texelFetch(records, cell + ivec2(1, 0), 0);
  vec3 centre = (view * vec4(uintBitsToFloat(first.xyz), 1.0)).xyz;
  vec3 deviations = uintBitsToFloat(uvec3(first.w, second.xy));
  colour = bytes(second.z) / 255.0;
  float depth = -centre.z;
  gl_Position = vec4(0.0, 0.0, 2.0, 1.0); // outside the clip volume: not drawn
  if (!(depth > near) || colour.a < 1.0 / 255.0) return;

  // The three axes in camera space, each projected by the derivative of (x, y) · focal / depth.
  mat3 axes = mat3(view) * rotation(normalize((bytes(second.w) - 128.0) / 128.0));
  vec2 edge = 0.65 * viewport / focal; // far outside the image the derivative grows without bound
  vec2 slope = clamp(centre.xy / depth, -edge, edge);
  vec3 covariance = vec3(0.3, 0.0, 0.3); // xx, xy, yy in pixels²; 0.3 is the reference rasteriser's low-pass
  for (int k = 0; k < 3; k++) {
    vec3 axis = axes[k] * deviations[k];
    vec2 shadow = (axis.xy + slope * axis.z) * focal / depth;
    covariance += vec3(shadow.x * shadow.x, shadow.x * shadow.y, shadow.y * shadow.y);
  }

  // Half axes of the ellipse from the eigenvalues of the 2 × 2 covariance.
  float middle = 0.5 * (covariance.x + covariance.z);
  float spread = length(vec2(0.5 * (covariance.x - covariance.z), covariance.y));
  vec2 variances = vec2(middle + spread, max(middle - spread, 0.05));
  vec2 major = vec2(covariance.y, variances.x - covariance.x);
  major = dot(major, major) > 1e-12 * variances.x * variances.x
    ? normalize(major) : (covariance.x >= covariance.z ? vec2(1.0, 0.0) : vec2(0.0, 1.0));
  vec2 minor = vec2(major.y, -major.x);
  float reach = sqrt(2.0 * log(255.0 * colour.a)); // beyond, the contribution is below 1/255
  vec2 corner = vec2(gl_VertexID & 1, gl_VertexID >> 1) * 2.0 - 1.0;
  offset = corner * reach;
  vec2 shift = offset.x * sqrt(variances.x) * major + offset.y * sqrt(variances.y) * minor;
  vec4 middlePoint = projection * vec4(centre, 1.0);
  gl_Position = middlePoint + vec4(2.0 * shift / viewport * middlePoint.w, 0.0, 0.0);
}`;

const SPLAT_FRAGMENT = `#version 300 es
precision highp float;
in vec2 offset;
in vec4 colour;
out vec4 pixel;
void main() {
  float alpha = min(0.999, colour.a * exp(-0.5 * dot(offset, offset)));
  if (alpha < 1.0 / 255.0) discard;
  pixel = vec4(colour.rgb * alpha, alpha);
}`;

// Centre, longest side and radius of all but the outermost splats: captured scenes have strays far away, and a view
// that held every one of them would show the object as a dot.
function coreBounds(positions, count) {
  const step = Math.max(1, Math.floor(count / 20000)), sample = [];
  for (let i = 0; i < count; i += step) {
    const at = i * RECORD_WORDS;
    sample.push(positions[at], positions[at + 1], positions[at + 2]);
  }
  const total = sample.length / 3, cut = Math.floor(total / 200);
  const inside = [0, 1, 2].map((k) => {
    const sorted = Float32Array.from({ length: total }, (_, i) => sample[3 * i + k]).sort();
    const low = sorted[cut], high = sorted[total - 1 - cut], margin = 0.05 * (high - low);
    return [low - margin, high + margin];
  });
  const core = [];
  for (let i = 0; i < sample.length; i += 3) {
    if (inside.every(([low, high], k) => sample[i + k] >= low && sample[i + k] <= high)) {
      core.push(sample[i], sample[i + 1], sample[i + 2]);
    }
  }
  return bounds([core], [1, -1, -1]);
}

// .splat bytes → { words, positions, count, scale, bounds }, bounds in the world frame.
// A splat always has its longest side about 1; a mesh that was given a real height has not. With such a `mesh` the
// splat is enlarged by the mesh's longest side, so that both are seen at one size.
function readSplats(bytes, mesh = null) {
  if (!bytes.byteLength || bytes.byteLength % 32) throw new Error("The splat data is not a whole number of 32-byte records.");
  const copy = bytes.slice();
  const positions = new Float32Array(copy.buffer);
  const box = coreBounds(positions, copy.byteLength / 32);
  const ratio = mesh ? mesh.bounds.longest / box.longest : 1;
  return {
    words: new Uint32Array(copy.buffer),
    positions,
    count: copy.byteLength / 32,
    scale: ratio > 1.25 || ratio < 0.8 ? mesh.bounds.longest : 1,
    bounds: box,
  };
}

// Counting sort of the records along `axis`, farthest (most negative in camera space) first.
class DepthOrder {
  constructor(splats) {
    this.splats = splats;
    this.bins = new Uint16Array(splats.count);
    this.depths = new Float32Array(splats.count);
    this.starts = new Uint32Array(65537);
    this.order = new Uint32Array(splats.count);
  }

  sort(axis) {
    const { depths, bins, starts, order } = this;
    const { positions, count } = this.splats;
    let low = Infinity, high = -Infinity;
    for (let i = 0, at = 0; i < count; i++, at += RECORD_WORDS) {
      const depth = axis[0] * positions[at] + axis[1] * positions[at + 1] + axis[2] * positions[at + 2];
      depths[i] = depth;
      if (depth < low) low = depth;
      if (depth > high) high = depth;
    }
    const scale = 65535 / Math.max(high - low, 1e-20);
    starts.fill(0);
    for (let i = 0; i < count; i++) {
      bins[i] = (depths[i] - low) * scale;
      starts[bins[i] + 1]++;
    }
    for (let bin = 0; bin < 65536; bin++) starts[bin + 1] += starts[bin];
    for (let i = 0; i < count; i++) order[starts[bins[i]]++] = i;
    return order;
  }
}

class SplatDrawing {
  constructor(gl, splats) {
    this.gl = gl;
    this.count = splats.count;
    this.flip = flip(splats.scale);
    this.program = compileProgram(gl, SPLAT_VERTEX, SPLAT_FRAGMENT);
    this.sorter = new DepthOrder(splats);
    this.axis = null;
    this.array = gl.createVertexArray();
    this.indices = gl.createBuffer();
    gl.bindVertexArray(this.array);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.indices);
    gl.bufferData(gl.ARRAY_BUFFER, 4 * splats.count, gl.DYNAMIC_DRAW);
    gl.enableVertexAttribArray(0);
    gl.vertexAttribIPointer(0, 1, gl.UNSIGNED_INT, 0, 0);
    gl.vertexAttribDivisor(0, 1);
    gl.bindVertexArray(null);
    this.texture = this.upload(splats);
  }

  upload(splats) {
    const { gl } = this;
    const rows = Math.ceil(splats.count / RECORDS_PER_ROW), limit = gl.getParameter(gl.MAX_TEXTURE_SIZE);
    if (rows > limit) {
      throw new Error(`${splats.count} Gaussians are too many for this device, which takes ${limit * RECORDS_PER_ROW}.`);
    }
    const padded = new Uint32Array(rows * RECORDS_PER_ROW * RECORD_WORDS);
    padded.set(splats.words);
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
    gl.texImage2D(
      gl.TEXTURE_2D, 0, gl.RGBA32UI, 2 * RECORDS_PER_ROW, rows, 0, gl.RGBA_INTEGER, gl.UNSIGNED_INT, padded,
    );
    return texture;
  }

  draw({ view, projection, focal, near, width, height }) {
    const { gl } = this;
    const flipped = multiply(view, this.flip);
    const axis = [flipped[2], flipped[6], flipped[10]];
    gl.bindVertexArray(this.array);
    if (!this.axis || axis.some((value, k) => Math.abs(value - this.axis[k]) > 1e-5)) {
      gl.bindBuffer(gl.ARRAY_BUFFER, this.indices);
      gl.bufferSubData(gl.ARRAY_BUFFER, 0, this.sorter.sort(axis));
      this.axis = axis;
    }
    gl.disable(gl.DEPTH_TEST);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    const { program, uniforms } = this.program;
    gl.useProgram(program);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.texture);
    gl.uniform1i(uniforms.records, 0);
    gl.uniformMatrix4fv(uniforms.view, false, flipped);
    gl.uniformMatrix4fv(uniforms.projection, false, projection);
    gl.uniform2f(uniforms.viewport, width, height);
    gl.uniform1f(uniforms.focal, focal);
    gl.uniform1f(uniforms.near, near);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, this.count);
  }
}
