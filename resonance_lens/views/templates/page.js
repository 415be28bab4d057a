// Views of CircuitsVis are mounted when their box is opened, because each takes seconds.
// "#open-all" at the end of the address opens every box.
(function () {
  "use strict";
  const data = JSON.parse(document.getElementById("view-data").textContent);

  function unpack(rows, scale) {
    return rows.map(function (row) {
      const values = new Array(rows.length).fill(0);
      row.forEach(function (value, i) { values[i] = value / scale; });
      return values;
    });
  }

  function mount(box) {
    const key = box.dataset.view;
    if (!key || box.dataset.mounted) { return; }
    box.dataset.mounted = "started";
    const view = data.views[key];
    const props = Object.assign({}, view.props);
    if (view.patterns.length) {
      props.attention = view.patterns.map(function (i) { return unpack(data.patterns[i], 10000); });
    }
    // The pause lets the box say "Drawing" before the browser is busy.
    setTimeout(function () {
      CircuitsVis.render(key, CircuitsVis[view.component], props);
      box.dataset.mounted = "yes";
    }, 30);
  }

  document.querySelectorAll("details[data-view]").forEach(function (box) {
    box.addEventListener("toggle", function () { if (box.open) { mount(box); } });
  });
  if (location.hash === "#open-all") {
    document.querySelectorAll("details").forEach(function (box) { box.open = true; });
  }
})();
