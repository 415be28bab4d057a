// Oscilloscopes that can be set going: a beam runs along the tokens and draws the response against the
// drive, one layer after the other. Where motion is to be reduced nothing runs: whole figures follow
// each other, a second and a half apart.
(function () {
  "use strict";
  const COLOURS = 24, PIECES = 192, SECONDS = 6, STILL_SECONDS = 1.5, GLOW = 0.22, FAINT = 0.16;
  const sweeps = JSON.parse(document.getElementById("view-data").textContent).sweeps;
  const reduced = matchMedia("(prefers-reduced-motion: reduce)");

  function said(value) { return String(Number(value.toPrecision(2))).replace("-", "\u2212"); }

  function palette() {
    const style = getComputedStyle(document.documentElement);
    const colour = function (name) { return style.getPropertyValue("--" + name).trim(); };
    const beam = [];
    for (let i = 1; i <= COLOURS; i += 1) { beam.push(colour("beam-" + i)); }
    return { beam: beam, rule: colour("rule"), grid: colour("grid"), muted: colour("muted") };
  }

  // A canvas with as many pixels as it covers, drawn in CSS pixels.
  function fitted(canvas) {
    const ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.lineJoin = "round";
    pen.lineCap = "round";
    return { pen: pen, width: width, height: height };
  }

  function graticule(pen, box, colours, across, up) {
    pen.lineWidth = 1;
    for (const [divisions, lies] of [[across, true], [up, false]]) {
      for (let i = 0; i <= divisions; i += 1) {
        pen.strokeStyle = 2 * i === divisions ? colours.muted : colours.rule;
        pen.globalAlpha = 2 * i === divisions ? 0.55 : 0.7;
        const at = lies ? box.x + box.w * i / divisions : box.y + box.h * i / divisions;
        pen.beginPath();
        if (lies) { pen.moveTo(at, box.y); pen.lineTo(at, box.y + box.h); }
        else { pen.moveTo(box.x, at); pen.lineTo(box.x + box.w, at); }
        pen.stroke();
      }
    }
    pen.globalAlpha = 1;
  }

  function write(pen, colours, text, x, y, align) {
    pen.fillStyle = colours.muted;
    pen.font = "11px system-ui, sans-serif";
    pen.textAlign = align || "left";
    pen.fillText(text, x, y);
  }

  // `head` is how far the beam has come, from 0 to 1; the whole curve shines where it has none.
  function beam(pen, xs, ys, colours, head) {
    const n = xs.length - 1;
    for (let piece = 0; piece < PIECES; piece += 1) {
      const first = Math.floor(n * piece / PIECES), last = Math.floor(n * (piece + 1) / PIECES);
      if (last <= first) { continue; }
      const age = head === null ? 0 : head - piece / PIECES;
      const light = age < 0 ? 0 : head === null ? 1 : Math.exp(-age / GLOW);
      pen.strokeStyle = colours.beam[Math.min(COLOURS - 1, Math.floor(COLOURS * piece / PIECES))];
      pen.beginPath();
      pen.moveTo(xs[first], ys[first]);
      for (let i = first + 1; i <= last; i += 1) { pen.lineTo(xs[i], ys[i]); }
      const strong = FAINT + (1 - FAINT) * light;
      pen.globalAlpha = 0.14 * light; pen.lineWidth = 6; pen.stroke();
      pen.globalAlpha = strong; pen.lineWidth = 1.5; pen.stroke();
    }
    pen.globalAlpha = 1;
    if (head !== null) {
      const i = Math.min(n, Math.round(n * head));
      pen.fillStyle = colours.beam[Math.min(COLOURS - 1, Math.floor(COLOURS * head))];
      for (const [radius, alpha] of [[9, 0.18], [5, 0.35], [2.6, 1]]) {
        pen.globalAlpha = alpha;
        pen.beginPath();
        pen.arc(xs[i], ys[i], radius, 0, 2 * Math.PI);
        pen.fill();
      }
      pen.globalAlpha = 1;
    }
  }

  function scope(root) {
    const sweep = sweeps[root.dataset.sweep];
    const traces = root.querySelector(".traces"), against = root.querySelector(".against");
    const button = root.querySelector("button"), slider = root.querySelector("input");
    const output = root.querySelector("output");
    const last = sweep.titles.length - 1;
    let playing = false, head = null, before = null, colours = palette();

    function placed(curve, from, length) {  // the edge of the screen is 8 % outside the largest value
      return curve.map(function (value) { return from + length * (0.5 + 0.46 * value / sweep.scale); });
    }

    function draw() {
      const k = Number(slider.value), response = sweep.responses[k];
      const left = fitted(traces), margin = 22;
      const tall = (left.height - 3 * margin) / 2;
      const boxes = [0, 1].map(function (i) {
        return { x: 8, y: margin + i * (tall + margin), w: left.width - 16, h: tall };
      });
      const times = sweep.drive.map(function (_, i) { return 8 + (left.width - 16) * i / (sweep.drive.length - 1); });
      [sweep.drive, response].forEach(function (curve, i) {
        const box = boxes[i];
        graticule(left.pen, box, colours, 10, 4);
        write(left.pen, colours, sweep.names[i] + ", \u00b1" + said((sweep.limits[i][1] - sweep.limits[i][0]) / 2 / 0.92), box.x, box.y - 6);
        beam(left.pen, times, placed(curve, box.y + box.h, -box.h), colours, head);
      });
      const foot = left.height - 6;
      write(left.pen, colours, sweep.over + " " + said(sweep.ends[0]), 8, foot);
      write(left.pen, colours, String(sweep.ends[1]), left.width - 8, foot, "right");

      const right = fitted(against);
      const side = Math.min(right.width - 16, right.height - 2 * margin);
      const box = { x: (right.width - side) / 2, y: margin, w: side, h: side };
      graticule(right.pen, box, colours, 8, 8);
      write(right.pen, colours, sweep.names[1] + " \u2191", box.x, box.y - 6);
      write(right.pen, colours, sweep.names[0] + " \u2192", box.x + side, right.height - 6, "right");
      beam(right.pen, placed(sweep.drive, box.x, side), placed(response, box.y + side, -side), colours, head);
      output.textContent = sweep.titles[k];
      slider.setAttribute("aria-valuetext", sweep.along + " " + sweep.titles[k]);
    }

    function next() { slider.value = String(Number(slider.value) === last ? 0 : Number(slider.value) + 1); }

    function step(now) {
      if (!playing) { return; }
      const seconds = before === null ? 0 : Math.min(0.1, (now - before) / 1000);
      before = now;
      head += seconds / (reduced.matches ? STILL_SECONDS : SECONDS);
      if (head >= 1) { head = 0; next(); }
      const shown = head;
      if (reduced.matches) { head = null; }
      draw();
      head = shown;
      requestAnimationFrame(step);
    }

    button.addEventListener("click", function () {
      playing = !playing;
      button.textContent = playing ? "Pause" : "Play";
      if (playing) { head = head === null ? 0 : head; before = null; requestAnimationFrame(step); }
      else { head = null; draw(); }
    });
    slider.addEventListener("input", function () { if (playing) { head = 0; } draw(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", function () { colours = palette(); draw(); });
    root.hidden = false;
    new ResizeObserver(draw).observe(root);
    draw();
  }

  document.querySelectorAll(".scope").forEach(scope);
})();
