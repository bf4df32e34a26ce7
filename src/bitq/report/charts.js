const specs = JSON.parse(document.getElementById("specs").textContent);
const options = {
  renderer: "svg",
  ast: true, // expressions are interpreted: the page's policy forbids eval
  actions: { export: true, source: false, compiled: false, editor: false },
};

async function draw([id, spec]) {
  const place = document.getElementById(id);
  try {
    await vegaEmbed(place, spec, options);
    place.dataset.drawn = "yes";
  } catch (error) {
    place.textContent = `This chart could not be drawn (${error.message}).`;
    place.dataset.drawn = "no";
  }
}

Promise.all(Object.entries(specs).map(draw)).then(() => {
  document.documentElement.dataset.charts = "done";
});
