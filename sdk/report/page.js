// Sorting for the tables of reasons. Without it they stand in the build's own order.
for (const table of document.querySelectorAll("table.reasons")) {
  const body = table.tBodies[0];
  for (const header of table.querySelectorAll("thead th[data-sort]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const up = header.getAttribute("aria-sort") !== "ascending";
      const value = (row) => row.cells[header.cellIndex].dataset.value ?? "";
      const known = (row) => value(row) !== "";
      const rows = [...body.rows].sort((a, b) => {
        if (known(a) !== known(b)) return known(a) ? -1 : 1;
        const order = value(a).localeCompare(value(b), "en", { numeric: false });
        const numbers = Number(value(a)) - Number(value(b));
        return (Number.isNaN(numbers) ? order : numbers) * (up ? 1 : -1);
      });
      for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", up ? "ascending" : "descending");
      body.append(...rows);
    });
  }
}
