const inputs = [...document.querySelectorAll("input")];
const count = () => document.getElementById("count").textContent =
  inputs.filter(i => i.value.trim()).length + " of " + inputs.length + " labelled";
document.addEventListener("input", count);
document.addEventListener("click", event => {
  if (!event.target.matches(".right")) return;
  event.target.parentElement.querySelector("input").value = event.target.dataset.label;
  count();
});
document.getElementById("save").addEventListener("click", () => {
  const quoted = text => '"' + text.replaceAll('"', '""') + '"';
  const rows = inputs.filter(i => i.value.trim())
    .map(i => i.dataset.stem + "," + quoted(exact.get(i.value.trim()) ?? i.value.trim()));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(["stem,label\n" + rows.join("\n") + "\n"],
    {type: "text/csv"}));
  link.download = "labels.csv";
  link.click();
});
count();
