// Wires the page: decodes the embedded files, draws on demand, and connects the buttons.
// The part of the address after # may set the first view, for links and screenshots, for example
// report.html#mode=splat&azimuth=90&elevation=0&background=dark&turn=off

const BACKGROUNDS = { light: [0.957, 0.953, 0.945], dark: [0.09, 0.094, 0.106] };

class Viewer {
  constructor(root) {
    this.root = root;
    this.canvas = root.querySelector("canvas");
    this.pose = root.querySelector(".pose");
    this.notice = root.querySelector(".notice");
    this.wishes = new URLSearchParams(location.hash.slice(1));
    this.visible = true;
    this.lastTime = 0;
    this.scheduled = false;
  }

  async start() {
    this.data = { mesh: embedded("glb-data"), splat: embedded("splat-data") };
    this.connectDownloads();
    this.gl = this.canvas.getContext("webgl2", { alpha: false, antialias: true, powerPreference: "high-performance" });
    if (!this.gl) {
      this.fail("This browser does not offer WebGL 2, so the asset cannot be turned here. "
        + "Save it with the buttons below and open it in any 3D program, "
        + "or try a current Firefox, Chrome, Edge or Safari.");
      return;
    }
    this.mesh = this.data.mesh ? await readGlb(this.data.mesh) : null;
    this.splats = this.data.splat ? readSplats(this.data.splat, this.mesh) : null;
    this.orbit = new Orbit((this.mesh || this.splats).bounds, () => this.schedule());
    this.choose();
    this.build();
    this.connect();
    this.notice.hidden = true;
    this.root.dataset.state = "ready";
    this.refresh();
    this.render();
    this.schedule();
  }

  fail(message) {
    this.notice.textContent = message;
    this.notice.hidden = false;
    this.root.dataset.state = "failed";
  }

  choose() {
    const wish = this.wishes, offered = [];
    if (this.mesh) offered.push("texture", "clay", "wire");
    if (this.splats) offered.push("splat");
    for (const button of this.root.querySelectorAll("[data-mode]")) {
      button.hidden = !offered.includes(button.dataset.mode);
    }
    this.mode = offered.includes(wish.get("mode")) ? wish.get("mode") : offered[0];
    const preferred = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    this.background = wish.get("background") in BACKGROUNDS ? wish.get("background") : preferred;
    const degrees = (name, fallback) => {
      const value = wish.has(name) ? Number(wish.get(name)) : NaN;
      return Number.isFinite(value) ? value : fallback;
    };
    this.orbit.azimuth = wrapDegrees(degrees("azimuth", HOME.azimuth));
    this.orbit.elevation = clamp(degrees("elevation", HOME.elevation), -90, 90);
    if (wish.get("turn") === "off") this.orbit.spinning = false;
  }

  build() {
    this.meshDrawing = this.mesh ? new MeshDrawing(this.gl, this.mesh) : null;
    this.splatDrawing = this.splats ? new SplatDrawing(this.gl, this.splats) : null;
  }

  connectDownloads() {
    for (const button of this.root.querySelectorAll("[data-save]")) {
      const bytes = this.data[button.dataset.save];
      button.hidden = !bytes;
      button.addEventListener("click", () => {
        const link = document.createElement("a");
        link.href = URL.createObjectURL(new Blob([bytes], { type: button.dataset.type }));
        link.download = button.dataset.name;
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 10000);
      });
    }
  }

  connect() {
    const { root, orbit, canvas } = this;
    const inPage = root.dataset.place === "page";
    listen(canvas, orbit, { inPage, onKey: () => this.refresh() });
    root.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const { mode, view, act } = button.dataset;
      if (mode) this.mode = mode;
      if (view) orbit.go(...view.split(" ").map(Number));
      if (act === "reset") orbit.go(HOME.azimuth, HOME.elevation, { recentre: true });
      if (act === "turn") orbit.spin(!orbit.spinning);
      if (act === "background") this.background = this.background === "dark" ? "light" : "dark";
      this.refresh();
      this.schedule();
    });
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => {
      this.build();
      this.schedule();
    });
    new ResizeObserver(() => this.schedule()).observe(canvas);
    new IntersectionObserver((entries) => {
      this.visible = entries[entries.length - 1].isIntersecting;
      this.schedule();
    }).observe(canvas);
  }

  // Bring the buttons in line with what is shown.
  refresh() {
    const { root, orbit, mode, background } = this;
    const press = (selector, on) => root.querySelector(selector).setAttribute("aria-pressed", String(on));
    for (const button of root.querySelectorAll("[data-mode]")) {
      button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
    }
    press("[data-act=turn]", orbit.spinning);
    press("[data-act=background]", background === "dark");
    root.dataset.background = background;
    root.dataset.mode = mode;
  }

  schedule() {
    if (this.scheduled || this.root.dataset.state !== "ready") return;
    this.scheduled = true;
    requestAnimationFrame((now) => {
      this.scheduled = false;
      const elapsed = (now - this.lastTime) / 1000;
      this.lastTime = now;
      const more = this.orbit.advance(now, elapsed);
      this.render();
      if (more && this.visible) this.schedule();
    });
  }

  render() {
    const { gl, canvas, orbit } = this;
    if (gl.isContextLost()) return;
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    const height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    gl.viewport(0, 0, width, height);
    gl.clearColor(...BACKGROUNDS[this.background], 1);
    gl.depthMask(true);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const camera = orbit.matrices(width, height);
    if (this.mode === "splat") this.splatDrawing.draw(camera);
    else this.meshDrawing.draw({ ...camera, style: this.mode });
    const degrees = (value) => `${Math.round(value)}°`.replace("-", "−").replace("−0°", "0°");
    this.pose.textContent = `azimuth ${degrees(orbit.azimuth)}, elevation ${degrees(orbit.elevation)}`;
    const turning = this.root.querySelector("[data-act=turn]");
    if (turning.getAttribute("aria-pressed") !== String(orbit.spinning)) this.refresh();
  }
}

function embedded(id) {
  const block = document.getElementById(id);
  if (!block) return null;
  const bytes = decodeBase64(block.textContent.trim());
  block.remove(); // the text is a third larger than the bytes; no need to keep both
  return bytes;
}

const viewer = new Viewer(document.getElementById("viewer"));
viewer.start().catch((error) => viewer.fail(`The asset could not be shown: ${error.message}`));
