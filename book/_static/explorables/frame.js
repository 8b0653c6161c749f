// What all explorables share: controls with their labels and values, a picture, and a
// line that says in words what the picture shows. An explorable is a figure of class
// "explorable" with a caption and, behind it, what only it knows:
//
//   explorable(id of the figure, {
//     size: [width, height],                      of the picture
//     controls: {name: {label, show, …}},         … are attributes of its input, a slider
//                                                 if there is no type; show(value): text
//     draw: values => ({parts, about, says}),     parts made by explorable.part
//   });
//
// The input of a control has the id "figure-name", its output "figure-name-value". No
// module of JavaScript: browsers load none from a file, and the book reads well from files.
(() => {
  "use strict";

  function made(node, attributes, children) {
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }

  const html = (name, attributes, ...children) =>
    made(document.createElement(name), attributes, children);
  const part = (name, attributes, ...children) =>
    made(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

  function control(id, {label, show, type = "range", ...attributes}) {
    const input = html("input", {id, type, ...attributes});
    const output = html("output", {id: `${id}-value`, for: id});
    const read = () => type === "checkbox" ? input.checked : Number(input.value);
    return {
      nodes: [html("label", {for: id}, label), input, output],
      value() {
        output.textContent = show(read());
        if (type === "range") input.setAttribute("aria-valuetext", output.textContent);
        return read();
      },
    };
  }

  function explorable(id, {size: [width, height], controls, draw}) {
    const named = Object.entries(controls).map(([name, about]) => [name, control(`${id}-${name}`, about)]);
    const tools = html("div", {class: "explorable-controls"}, ...named.flatMap(([, {nodes}]) => nodes));
    const picture = part("svg", {viewBox: `0 0 ${width} ${height}`, role: "img"});
    const line = html("p", {class: "explorable-says", "aria-live": "polite"});

    function update() {
      const {parts, about, says} = draw(Object.fromEntries(named.map(([name, {value}]) => [name, value()])));
      picture.replaceChildren(...parts);
      picture.setAttribute("aria-label", `${about}. ${says}`);
      line.textContent = says;
    }

    tools.addEventListener("input", update);
    update();
    document.getElementById(id).append(tools, picture, line);
  }

  window.explorable = Object.assign(explorable, {part});
})();
