// Returns the visible texts of the page whose contrast is below WCAG 2.2 AA (1.4.3): [text, ratio] of each.
() => {
  const context = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (color) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = color;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], below) => [r, g, b].map((value, i) => a * value + (1 - a) * below[i]);
  const luminance = (color) => {
    const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = color.map((value) => linear(value / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ancestors = (element) => (element ? [...ancestors(element.parentElement), element] : []);
  const failures = [];
  for (const element of document.body.querySelectorAll("*")) {
    const nodes = [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE);
    const texts = nodes.map((node) => node.data.trim());
    const text = texts.join(" ").trim() || element.value || element.placeholder || "";
    if (typeof text !== "string" || !text || element.disabled) continue;
    if (!element.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    if (["SCRIPT", "STYLE"].includes(element.tagName)) continue;
    if (["range", "radio", "checkbox", "file"].includes(element.type)) continue;
    const style = getComputedStyle(element, element.value || texts.join("") ? null : "::placeholder");
    const [r, g, b, alpha] = rgba(style.color);
    const chain = ancestors(element);
    const opacity = chain.reduce((product, each) => product * getComputedStyle(each).opacity, 1);
    const backgrounds = chain.map((each) => rgba(getComputedStyle(each).backgroundColor));
    const background = backgrounds.reduce((below, each) => over(each, below), [255, 255, 255]);
    const both = [luminance(over([r, g, b, alpha * opacity], background)), luminance(background)];
    const [low, high] = both.sort((x, y) => x - y);
    const ratio = (high + 0.05) / (low + 0.05), size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if (ratio < (isLarge ? 3 : 4.5)) failures.push([text.slice(0, 60), ratio.toFixed(2)]);
  }
  return failures;
}
