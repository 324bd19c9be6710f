
// Filters: a line is shown if it has every chosen value and every word. Its marks in the figures are ringed.
const words = document.getElementById("words");
const chosen = [...document.querySelectorAll(".filters select")];
const groups = [...document.querySelectorAll("section.group")].map((section) => {
  const columns = [...section.querySelectorAll("thead th")].map((head) => head.textContent.trim());
  const shared = JSON.parse(section.dataset.ofGroup);
  const lines = [...section.querySelectorAll("tbody tr")].map((line) => {
    const value = (column) => shared[column] ?? line.cells[columns.indexOf(column)].textContent;
    const text = `${Object.values(shared).join(" ")} ${[...line.cells].map((cell) => cell.textContent).join(" ")}`;
    return { line, value, text: text.toLowerCase(), marks: section.querySelectorAll(`a.mark[href="#${line.id}"]`) };
  });
  return { section, lines };
});

function filter() {
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  const picked = chosen.filter((select) => select.value);
  const any = wanted.length + picked.length > 0;
  let shown = 0;
  let every = 0;
  for (const { section, lines } of groups) {
    const fitting = lines.filter(({ line, value, text, marks }) => {
      const fits = picked.every((select) => value(select.dataset.column) === select.value) && wanted.every((word) => text.includes(word));
      line.hidden = !fits;
      for (const mark of marks) mark.classList.toggle("fits", any && fits);
      return fits;
    });
    section.hidden = !fitting.length;
    document.querySelector(`nav a[href="#${section.id}"]`).parentElement.hidden = section.hidden;
    shown += fitting.length;
    every += lines.length;
  }
  document.getElementById("shown").textContent = `${shown} of ${every} lines`;
}

words.addEventListener("input", filter);
for (const select of chosen) select.addEventListener("change", filter);
document.getElementById("every").addEventListener("click", () => {
  words.value = "";
  for (const select of chosen) select.value = "";
  filter();
});
filter(); // a browser may have kept what was chosen before
