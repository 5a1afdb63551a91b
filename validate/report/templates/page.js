// Draws the plots once the library, which stands compressed in this page, is unpacked; again when the theme changes.
(async () => {
  const root = document.documentElement;
  const plots = [...document.querySelectorAll(".plot")];
  const read = (id) => document.getElementById(id).textContent;
  try {
    const packed = Uint8Array.from(atob(read("plotly-gzip").trim()), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    const roles = JSON.parse(read("plot-roles"));

    const themed = (value, style) => {
      if (typeof value === "string") return value in roles ? style.getPropertyValue(roles[value]).trim() : value;
      if (Array.isArray(value)) return value.map((v) => themed(v, style));
      if (value && typeof value === "object") {
        return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, themed(v, style)]));
      }
      return value;
    };
    const draw = async () => {
      const style = getComputedStyle(root);
      const ink = style.getPropertyValue("--ink").trim();
      const paper = style.getPropertyValue("--paper").trim();
      for (const plot of plots) {
        const figure = themed(JSON.parse(read(plot.id + "-data")), style);
        Object.assign(figure.layout, {
          paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
          font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: ink },
          hoverlabel: { bgcolor: paper, font: { color: ink } },
        });
        await Plotly.react(plot, figure.data, figure.layout, { displayModeBar: false, responsive: true });
      }
    };
    await draw();
    root.dataset.plots = "drawn";
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    matchMedia("print").addEventListener("change", draw);
  } catch (error) {
    root.dataset.plots = "failed";
    for (const plot of plots) {
      plot.classList.add("failed");
      plot.textContent = "This browser cannot draw the plot; the tables hold the same numbers.";
    }
    console.error(error);
  }
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => (d.open = true)));
})();
