// The camera: on a sphere around `target`, azimuth 0 on +Z (the photo's side), positive towards +X, positive
// elevation looking down. Angles in degrees. `onChange` is called whenever the picture must be drawn again.

const FIELD_OF_VIEW_DEG = 30; // across the shorter side, as in the photo's own camera model
const HOME = { azimuth: 0, elevation: 10 };
const SPIN_DEG_PER_SECOND = 24;
const SPIN_PAUSE_MS = 1600; // the photo's side is shown still before the asset starts to turn

const radians = (degrees) => (degrees * Math.PI) / 180;
const wrapDegrees = (angle) => 180 - ((((180 - angle) % 360) + 360) % 360); // to −180…180, 180 included
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

class Orbit {
  constructor({ centre, radius }, onChange) {
    this.centre = centre;
    this.radius = radius;
    this.onChange = onChange;
    this.still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.spinning = !this.still;
    this.spinAfter = performance.now() + SPIN_PAUSE_MS;
    this.flight = null;
    this.home();
  }

  home() {
    this.azimuth = HOME.azimuth;
    this.elevation = HOME.elevation;
    this.target = [...this.centre];
    this.zoom = 1;
  }

  // Any deliberate move ends the turning.
  touched() {
    this.flight = null;
    this.spin(false);
  }

  spin(on) {
    this.spinning = on;
    this.spinAfter = performance.now();
    this.onChange();
  }

  turn(azimuth, elevation) {
    this.touched();
    this.azimuth = wrapDegrees(this.azimuth + azimuth);
    this.elevation = clamp(this.elevation + elevation, -90, 90);
    this.onChange();
  }

  scale(factor) {
    this.touched();
    this.zoom = clamp(this.zoom * factor, 0.12, 4);
    this.onChange();
  }

  // Move the target in the image plane by a share of the shorter side.
  pan(right, up) {
    this.touched();
    const step = 2 * this.distance(1) * Math.tan(radians(FIELD_OF_VIEW_DEG / 2));
    const a = radians(this.azimuth), e = radians(this.elevation);
    const x = [Math.cos(a), 0, -Math.sin(a)];
    const y = [-Math.sin(a) * Math.sin(e), Math.cos(e), -Math.cos(a) * Math.sin(e)];
    this.target = this.target.map((value, k) =>
      clamp(value - step * (right * x[k] + up * y[k]), this.centre[k] - this.radius, this.centre[k] + this.radius));
    this.onChange();
  }

  // Fly to a view; azimuth takes the shorter way round.
  go(azimuth, elevation, { recentre = false } = {}) {
    this.touched();
    const from = { azimuth: this.azimuth, elevation: this.elevation, zoom: this.zoom, target: [...this.target] };
    const to = {
      azimuth: this.azimuth + wrapDegrees(azimuth - this.azimuth),
      elevation,
      zoom: recentre ? 1 : this.zoom,
      target: recentre ? [...this.centre] : [...this.target],
    };
    this.flight = { from, to, start: performance.now(), milliseconds: this.still ? 0 : 420 };
    this.onChange();
  }

  // Advance flight and turning to time `now`; `elapsed` in seconds. True while there is more to come.
  advance(now, elapsed) {
    if (this.flight) {
      const { from, to, start, milliseconds } = this.flight;
      const t = milliseconds ? clamp((now - start) / milliseconds, 0, 1) : 1;
      const eased = t * t * (3 - 2 * t), blend = (a, b) => a + (b - a) * eased;
      this.azimuth = wrapDegrees(blend(from.azimuth, to.azimuth));
      this.elevation = blend(from.elevation, to.elevation);
      this.zoom = blend(from.zoom, to.zoom);
      this.target = from.target.map((value, k) => blend(value, to.target[k]));
      if (t === 1) this.flight = null;
    } else if (this.spinning && now > this.spinAfter) {
      this.azimuth = wrapDegrees(this.azimuth + SPIN_DEG_PER_SECOND * Math.min(elapsed, 0.1));
    }
    return Boolean(this.flight) || this.spinning;
  }

  // Distance at which the bounding sphere fits, times the zoom.
  distance(margin = 1.03) {
    return (this.zoom * margin * this.radius) / Math.sin(radians(FIELD_OF_VIEW_DEG / 2));
  }

  // Matrices for a canvas of width × height device pixels; focal in pixels.
  matrices(width, height) {
    const distance = this.distance(), near = distance / 200, far = distance + 8 * this.radius;
    const half = Math.tan(radians(FIELD_OF_VIEW_DEG / 2)), shorter = Math.min(width, height);
    const focal = shorter / (2 * half);
    const [x, y, z] = this.target;
    const turned = multiply(rotationX(radians(this.elevation)), rotationY(-radians(this.azimuth)));
    const view = multiply(translation(0, 0, -distance), multiply(turned, translation(-x, -y, -z)));
    const projection = perspective((2 * focal) / width, (2 * focal) / height, near, far);
    return { view, projection, focal, near, width, height };
  }
}

// Mouse, touch, wheel and keys on `canvas`. Where the page scrolls (`inPage`), the wheel zooms only once the view
// has been clicked or Ctrl is held, and one finger up or down scrolls the page.
function listen(canvas, orbit, { inPage, onKey }) {
  const fingers = new Map();
  const share = () => 1 / Math.min(canvas.clientWidth, canvas.clientHeight);
  const pinch = () => {
    const [a, b] = [...fingers.values()];
    return { length: Math.hypot(a.x - b.x, a.y - b.y), x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 };
  };

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    orbit.touched();
  });
  canvas.addEventListener("pointermove", (event) => {
    const last = fingers.get(event.pointerId);
    if (!last || fingers.size > 2) return;
    const before = fingers.size === 2 ? pinch() : null;
    const dx = event.clientX - last.x, dy = event.clientY - last.y;
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (before) {
      const after = pinch();
      if (after.length > 0) orbit.scale(before.length / after.length);
      orbit.pan((after.x - before.x) * share(), (before.y - after.y) * share());
    } else if (event.shiftKey || event.buttons & 6) {
      orbit.pan(dx * share(), -dy * share());
    } else {
      orbit.turn(-240 * dx * share(), 240 * dy * share());
    }
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, (event) => fingers.delete(event.pointerId));
  }
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => {
    if (inPage && document.activeElement !== canvas && !event.ctrlKey) return;
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1);
    orbit.scale(Math.exp(clamp(pixels, -200, 200) * (event.ctrlKey ? 0.008 : 0.0012)));
  }, { passive: false });

  const keys = {
    ArrowLeft: () => orbit.turn(-10, 0),
    ArrowRight: () => orbit.turn(10, 0),
    ArrowUp: () => orbit.turn(0, 10),
    ArrowDown: () => orbit.turn(0, -10),
    "+": () => orbit.scale(0.87),
    "=": () => orbit.scale(0.87),
    "-": () => orbit.scale(1.15),
    Home: () => orbit.go(HOME.azimuth, HOME.elevation, { recentre: true }),
    " ": () => orbit.spin(!orbit.spinning),
    Escape: () => canvas.blur(), // gives the wheel back to the page
  };
  canvas.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const action = keys[event.key];
    if (!action) return;
    event.preventDefault();
    action();
    onKey();
  });
}
