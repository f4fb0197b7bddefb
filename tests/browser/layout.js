// What is wrong with how a page lies on the screen: [sentence, ...]. Text that is cut, text over text, a document wider than its window.
() => {
  const found = [];
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) found.push(`the document is ${root.scrollWidth} px wide in a window of ${root.clientWidth}`);

  const name = (node) => {
    const element = node.parentElement;
    const words = node.data.trim().slice(0, 40);
    return `"${words}" in ${element.tagName.toLowerCase()}${element.id ? "#" + element.id : ""}.${String(element.className.baseVal ?? element.className)}`;
  };

  // The part of a rectangle that the boxes around it let through; what scrolls may hide, what only hides may not.
  const seen = (node, rect) => {
    let { left, right, top, bottom } = rect;
    let cut = false;
    for (let box = node.parentElement; box && box !== root; box = box.parentElement) {
      const style = getComputedStyle(box);
      if (style.visibility === "hidden" || style.opacity === "0") return null;
      if (style.overflowX === "visible" && style.overflowY === "visible") continue;
      if (box.namespaceURI.endsWith("svg") && box.tagName !== "svg") continue;
      const edge = box.getBoundingClientRect();
      const hides = (overflow) => overflow === "hidden" || overflow === "clip";
      const shortened = style.textOverflow === "ellipsis";
      if (hides(style.overflowX) && !shortened && (left < edge.left - 1 || right > edge.right + 1)) cut = true;
      if (hides(style.overflowY) && (top < edge.top - 1 || bottom > edge.bottom + 1)) cut = true;
      if (style.overflowX !== "visible") [left, right] = [Math.max(left, edge.left), Math.min(right, edge.right)];
      if (style.overflowY !== "visible") [top, bottom] = [Math.max(top, edge.top), Math.min(bottom, edge.bottom)];
    }
    return { left, right, top, bottom, cut };
  };

  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (!node.data.trim() || parent.closest("script, style, title, option, .skip, [hidden]") || !parent.checkVisibility()) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const rect of range.getClientRects()) {
      const part = seen(node, rect);
      if (!part) continue;
      if (part.cut) found.push(`cut: ${name(node)}`);
      if (part.right - part.left < 2 || part.bottom - part.top < 2) continue;
      if (part.right > root.clientWidth + 1 || part.left < -1) found.push(`beyond the window: ${name(node)}`);
      // Lines may touch: a font's box is higher than its letters.
      const slack = (part.bottom - part.top) * 0.2;
      texts.push({ node, left: part.left + 1, right: part.right - 1, top: part.top + slack, bottom: part.bottom - slack });
    }
  }

  texts.sort((a, b) => a.top - b.top);
  for (let i = 0; i < texts.length; i++) {
    for (let j = i + 1; j < texts.length && texts[j].top < texts[i].bottom; j++) {
      const [a, b] = [texts[i], texts[j]];
      if (a.node === b.node || a.left >= b.right || b.left >= a.right) continue;
      found.push(`${name(a.node)} lies over ${name(b.node)}`);
    }
  }
  return [...new Set(found)].slice(0, 20);
}
