// Draws a mesh with soft studio light. The photo's own light is already in the base colour, so a surface that faces
// the camera keeps its colour exactly and only turns a little darker towards the rim and below. Light is computed on
// linear values: the texture is stored as SRGB8_ALPHA8, which the GPU decodes before filtering.

const MESH_VERTEX = `#version 300 es
layout(location = 0) in vec3 position;
layout(location = 1) in vec3 normal;
layout(location = 2) in vec2 coordinate;
layout(location = 3) in vec4 colour;
uniform mat4 view, projection;
out vec3 viewPosition, viewNormal;
out vec2 uv;
out vec4 tint;
void main() {
  vec4 local = view * vec4(position, 1.0);
  viewPosition = local.xyz;
  viewNormal = mat3(view) * normal;
  uv = coordinate;
  tint = colour;
  gl_Position = projection * local;
}`;

const MESH_FRAGMENT = `#version 300 es
precision highp float;
in vec3 viewPosition, viewNormal;
in vec2 uv;
in vec4 tint;
uniform sampler2D image;
uniform vec4 factor;
uniform float cutoff, relief;
uniform bool textured, flatShaded, clay;
out vec4 pixel;

// IEC 61966-2-1: linear light to display values.
vec3 encode(vec3 linear) {
  linear = clamp(linear, 0.0, 1.0);
  return mix(12.92 * linear, 1.055 * pow(linear, vec3(1.0 / 2.4)) - 0.055, step(0.0031308, linear));
}

void main() {
  vec4 base = factor * tint;
  if (textured) base *= texture(image, uv);
  if (base.a < cutoff) discard;
  vec3 n = flatShaded ? cross(dFdx(viewPosition), dFdy(viewPosition)) : viewNormal;
  n = normalize(n);
  vec3 towards = normalize(-viewPosition);
  if (!gl_FrontFacing && !flatShaded) n = -n;
  // One large lamp above the camera's left shoulder, wrapped around the form; 1 where the surface faces the camera.
  vec3 lamp = normalize(towards + vec3(-0.25, 0.45, 0.0));
  float wrap = clay ? 0.25 : 0.5;
  float wrapped = max(dot(n, lamp) + wrap, 0.0) / (dot(towards, lamp) + wrap);
  float light = mix(1.0, wrapped, relief);
  if (clay) base.rgb = vec3(0.46, 0.44, 0.41);
  pixel = vec4(encode(base.rgb * light), 1.0);
}`;

const LINE_VERTEX = `#version 300 es
layout(location = 0) in vec3 position;
uniform mat4 view, projection;
void main() { gl_Position = projection * view * vec4(position, 1.0); }`;

const LINE_FRAGMENT = `#version 300 es
precision mediump float;
uniform vec4 ink;
out vec4 pixel;
void main() { pixel = vec4(ink.rgb * ink.a, ink.a); }`;

class MeshDrawing {
  constructor(gl, mesh) {
    this.gl = gl;
    this.surface = compileProgram(gl, MESH_VERTEX, MESH_FRAGMENT);
    this.lines = compileProgram(gl, LINE_VERTEX, LINE_FRAGMENT);
    this.textures = new Map([...mesh.textures].map(([index, texture]) => [index, this.upload(texture)]));
    this.blank = this.upload(null);
    this.parts = mesh.parts.map((part) => this.store(part));
  }

  upload(source) {
    const { gl } = this;
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
    if (!source) {
      const white = new Uint8Array([255, 255, 255, 255]);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.SRGB8_ALPHA8, 1, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, white);
      return texture;
    }
    const limit = gl.getParameter(gl.MAX_TEXTURE_SIZE);
    const { bitmap, sampler } = source;
    if (Math.max(bitmap.width, bitmap.height) > limit) {
      throw new Error(`The texture is ${bitmap.width} × ${bitmap.height}; this device takes at most ${limit}.`);
    }
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.SRGB8_ALPHA8, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
    gl.generateMipmap(gl.TEXTURE_2D);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, sampler.magFilter || gl.LINEAR);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, sampler.wrapS || gl.REPEAT);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, sampler.wrapT || gl.REPEAT);
    const sharper = gl.getExtension("EXT_texture_filter_anisotropic");
    if (sharper) {
      const most = gl.getParameter(sharper.MAX_TEXTURE_MAX_ANISOTROPY_EXT);
      gl.texParameterf(gl.TEXTURE_2D, sharper.TEXTURE_MAX_ANISOTROPY_EXT, Math.min(8, most));
    }
    return texture;
  }

  store(part) {
    const { gl } = this;
    const array = gl.createVertexArray();
    gl.bindVertexArray(array);
    const attribute = (location, data, width) => {
      if (!data) return; // a missing attribute reads the constant set before drawing
      gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
      gl.enableVertexAttribArray(location);
      gl.vertexAttribPointer(location, width, gl.FLOAT, false, 0, 0);
    };
    attribute(0, part.positions, 3);
    attribute(1, part.normals, 3);
    attribute(2, part.coordinates, 2);
    attribute(3, part.colours && part.colours.data, part.colours && part.colours.width);
    const indices = gl.createBuffer();
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, indices);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, part.indices, gl.STATIC_DRAW);
    gl.bindVertexArray(null);
    return { ...part, array, indexBuffer: indices, count: part.indices.length, edges: null };
  }

  // The edges of a part, each once, as a line index buffer; made when first asked for.
  edges(part) {
    if (part.edges) return part.edges;
    const { gl } = this;
    const total = part.positions.length / 3, seen = new Set(), list = [];
    for (let i = 0; i < part.count; i += 3) {
      for (let k = 0; k < 3; k++) {
        const a = part.indices[i + k], b = part.indices[i + ((k + 1) % 3)];
        const key = Math.min(a, b) * total + Math.max(a, b);
        if (!seen.has(key)) {
          seen.add(key);
          list.push(a, b);
        }
      }
    }
    const buffer = gl.createBuffer();
    gl.bindVertexArray(part.array);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, Uint32Array.from(list), gl.STATIC_DRAW);
    part.edges = { buffer, count: list.length };
    return part.edges;
  }

  // style: "texture", "clay" or "wire".
  draw({ view, projection, style }) {
    const { gl, surface, lines } = this;
    const plain = style !== "texture";
    gl.enable(gl.DEPTH_TEST);
    gl.depthMask(true);
    gl.disable(gl.BLEND);
    gl.useProgram(surface.program);
    gl.uniformMatrix4fv(surface.uniforms.view, false, view);
    gl.uniformMatrix4fv(surface.uniforms.projection, false, projection);
    gl.uniform1i(surface.uniforms.image, 0);
    gl.activeTexture(gl.TEXTURE0);
    if (style === "wire") {
      gl.enable(gl.POLYGON_OFFSET_FILL);
      gl.polygonOffset(1, 1);
    }
    for (const part of this.parts) {
      gl.bindVertexArray(part.array);
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, part.indexBuffer);
      gl.vertexAttrib4f(3, 1, 1, 1, 1);
      gl.bindTexture(gl.TEXTURE_2D, this.textures.get(part.texture) || this.blank);
      gl.uniform4fv(surface.uniforms.factor, part.factor);
      gl.uniform1f(surface.uniforms.cutoff, part.cutoff);
      gl.uniform1f(surface.uniforms.relief, plain ? 0.92 : part.unlit ? 0 : 0.42);
      gl.uniform1i(surface.uniforms.textured, part.texture !== null && part.coordinates ? 1 : 0);
      gl.uniform1i(surface.uniforms.flatShaded, part.normals ? 0 : 1);
      gl.uniform1i(surface.uniforms.clay, plain ? 1 : 0);
      if (part.doubleSided) gl.disable(gl.CULL_FACE);
      else gl.enable(gl.CULL_FACE);
      gl.drawElements(gl.TRIANGLES, part.count, gl.UNSIGNED_INT, 0);
    }
    gl.disable(gl.POLYGON_OFFSET_FILL);
    gl.disable(gl.CULL_FACE);
    if (style !== "wire") return;
    gl.useProgram(lines.program);
    gl.uniformMatrix4fv(lines.uniforms.view, false, view);
    gl.uniformMatrix4fv(lines.uniforms.projection, false, projection);
    gl.uniform4fv(lines.uniforms.ink, [0.07, 0.1, 0.16, 0.5]);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    for (const part of this.parts) {
      const { buffer, count } = this.edges(part);
      gl.bindVertexArray(part.array);
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, buffer);
      gl.drawElements(gl.LINES, count, gl.UNSIGNED_INT, 0);
    }
  }
}
