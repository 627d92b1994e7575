"use strict";
(() => {
    const EVERY = 3000;
    const POINTS = 240;
    const root = document.documentElement;
    const byId = (id) => document.getElementById(id);
    const main = byId("main");
    const choice = byId("choice");
    const status = byId("status");
    const pause = byId("pause");

    // --- updating the page where a newer version differs ---

    const key = (node) => node.nodeType === 1 ? node.id || node.dataset.key || "" : "";

    // Attributes of the shown page that the script itself sets.
    const isOurs = (node, name) =>
        (name === "open" && node.localName === "details") || name === "hidden" || name === "aria-sort" ||
        (name === "style" && node.localName === "th");

    function alike(a, b) {
        return a.nodeType === b.nodeType && a.nodeName === b.nodeName && key(a) === key(b);
    }

    function update(shown, fresh) {
        if (shown.nodeType !== 1) {
            if (shown.nodeValue !== fresh.nodeValue) shown.nodeValue = fresh.nodeValue;
            return;
        }
        if ("keep" in shown.dataset) return;
        for (const { name, value } of [...fresh.attributes]) {
            if (!isOurs(shown, name) && shown.getAttribute(name) !== value) shown.setAttribute(name, value);
        }
        for (const { name } of [...shown.attributes]) {
            if (!isOurs(shown, name) && !fresh.hasAttribute(name)) shown.removeAttribute(name);
        }
        // A column head keeps its sort button.
        if (shown.localName === "th" && shown.firstElementChild?.localName === "button") {
            const button = shown.firstElementChild;
            if (button.textContent !== fresh.textContent) button.textContent = fresh.textContent;
            return;
        }
        const known = new Map();
        for (const child of shown.childNodes) if (key(child)) known.set(key(child), child);
        let at = shown.firstChild;
        for (const wanted of [...fresh.childNodes]) {
            while (at && at.nodeType === 1 && "keep" in at.dataset) at = at.nextSibling;
            const name = key(wanted);
            let found = name ? known.get(name) : at;
            if (!found || !alike(found, wanted)) found = null;
            if (!found) {
                shown.insertBefore(document.importNode(wanted, true), at);
            } else {
                if (found === at) at = at.nextSibling;
                else shown.insertBefore(found, at);
                update(found, wanted);
            }
        }
        while (at) {
            const next = at.nextSibling;
            if (!(at.nodeType === 1 && "keep" in at.dataset)) at.remove();
            at = next;
        }
    }

    // --- tables ---

    const sorted = new Map();

    function sort(table) {
        const order = sorted.get(table.id);
        if (!order) return;
        const value = (row) => row.cells[order.column]?.dataset.sort ?? "";
        const number = (text) => text !== "" && Number.isFinite(+text);
        const rows = [...table.tBodies[0].rows];
        const compare = (a, b) => {
            const [x, y] = [value(a), value(b)];
            const result = number(x) && number(y) ? +x - +y : x.localeCompare(y);
            return order.descending ? -result : result;
        };
        const wanted = [...rows].sort(compare);
        if (wanted.some((row, i) => row !== rows[i])) table.tBodies[0].append(...wanted);
        [...table.tHead.rows[0].cells].forEach((cell, i) => {
            if (i !== order.column) cell.removeAttribute("aria-sort");
            else cell.setAttribute("aria-sort", order.descending ? "descending" : "ascending");
        });
    }

    function enhance(table) {
        if (!("sortable" in table.dataset)) return;
        [...table.tHead.rows[0].cells].forEach((cell, column) => {
            if (cell.firstElementChild?.localName === "button") return;
            const button = document.createElement("button");
            button.type = "button";
            button.textContent = cell.textContent;
            cell.replaceChildren(button);
        });
        sort(table);
    }

    // The column that the edge of a scrolling table would cut starts behind it: the one before it gets
    // wider. A wide column, whose room would stay empty, is cut.
    function fit(scroll) {
        const cells = [...scroll.querySelectorAll("thead th")];
        for (const cell of cells) cell.style.minWidth = "";
        const edge = scroll.getBoundingClientRect().left + scroll.clientWidth - scroll.scrollLeft;
        const boxes = cells.map((cell) => cell.getBoundingClientRect());
        const cut = boxes.findIndex((box) => box.left < edge && box.right > edge + 1);
        const room = edge - boxes[cut]?.left;
        if (cut > 0 && room < scroll.clientWidth / 3) {
            cells[cut - 1].style.minWidth = boxes[cut - 1].width + room + "px";
        }
    }

    const fitting = new ResizeObserver((entries) => entries.forEach((entry) => fit(entry.target)));

    main.addEventListener("click", (event) => {
        const cell = event.target.closest("thead button")?.parentElement;
        if (!cell) return;
        const table = cell.closest("table");
        const before = sorted.get(table.id);
        const figure = cell.classList.contains("figure");
        const descending = before?.column === cell.cellIndex ? !before.descending : figure;
        sorted.set(table.id, { column: cell.cellIndex, descending });
        sort(table);
    });

    // --- choosing one process or all ---

    const sources = () => [...main.querySelectorAll("[data-label]")];

    function offer() {
        const wanted = sources().map((source) => [source.id, source.dataset.label]);
        const there = [...choice.options].map((option) => [option.value, option.text]);
        if (JSON.stringify(wanted) === JSON.stringify(there)) return;
        const chosen = choice.value;
        choice.replaceChildren(...wanted.map(([value, text]) => new Option(text, value)));
        if (wanted.some(([value]) => value === chosen)) choice.value = chosen;
    }

    function show() {
        const chosen = choice.value.startsWith("p") && choice.options.length > 1 ? byId(choice.value) : null;
        const only = chosen?.localName === "details" ? chosen : null;
        for (const section of main.querySelectorAll(":scope > section")) {
            section.hidden = only !== null && !section.contains(only);
        }
        for (const details of main.querySelectorAll("details")) {
            details.hidden = only !== null && details !== only;
        }
        if (only) only.open = true;
        draw();
    }

    choice.addEventListener("change", () => {
        // With many processes, each has its own page.
        const page = byId(choice.value)?.dataset.page;
        if (page) location.href = page;
        else show();
    });

    // A link to a process opens it.
    function open() {
        const target = /^#p\d+$/.test(location.hash) && byId(location.hash.slice(1));
        if (target) target.open = true;
    }

    window.addEventListener("hashchange", open);

    // --- the history of the session ---

    const history = new Map();
    const figure = document.createElement("figure");
    figure.id = "history";
    figure.dataset.keep = "";

    function size(bytes) {
        let unit = -1;
        while (bytes >= 1023.5 && unit < 5) { bytes /= 1024; unit += 1; }
        if (unit < 0) return bytes + " B";
        return bytes.toPrecision(bytes >= 999.5 ? 4 : 3) + " " + ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"][unit];
    }

    function remember() {
        const time = Date.now();
        for (const source of sources()) {
            if (!source.dataset.history) continue;
            const points = history.get(source.id) ?? [];
            points.push([time, +source.dataset.history]);
            if (points.length > POINTS) points.shift();
            history.set(source.id, points);
        }
    }

    function draw() {
        const points = history.get(choice.value) ?? [];
        figure.hidden = points.length < 2;
        if (figure.hidden) return;
        const values = points.map(([, bytes]) => bytes);
        const [low, high] = [Math.min(...values), Math.max(...values)];
        const [from, to] = [points[0][0], points.at(-1)[0]];
        // A constant line is drawn in the middle.
        const y = (bytes) => high === low ? 25 : 46 - 42 * (bytes - low) / (high - low);
        const line = points.map(([time, bytes]) =>
            (1000 * (time - from) / (to - from || 1)).toFixed(1) + "," + y(bytes).toFixed(1)).join(" ");
        const label = choice.selectedOptions[0]?.text ?? "";
        const seconds = Math.round((to - from) / 1000);
        const span = seconds < 120 ? seconds + " s" : Math.round(seconds / 60) + " min";
        const range = size(low) === size(high) ? size(low) : size(low) + " to " + size(high);
        if (!figure.firstChild) {
            const caption = document.createElement("figcaption");
            caption.append(document.createElement("span"), document.createElement("span"));
            const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
            svg.setAttribute("viewBox", "0 0 1000 50");
            svg.setAttribute("preserveAspectRatio", "none");
            svg.setAttribute("role", "img");
            svg.append(document.createElementNS("http://www.w3.org/2000/svg", "polyline"));
            figure.append(caption, svg);
        }
        const [caption, svg] = figure.children;
        caption.firstChild.textContent = label + ": resident, last " + span;
        caption.lastChild.textContent = range;
        svg.setAttribute("aria-label", label + ": resident memory of the last " + span + ", " + range);
        svg.firstChild.setAttribute("points", line);
    }

    // --- refreshing ---

    let paused = false;
    let timer = 0;
    let running = false;

    function say(text, bad) {
        if (status.textContent !== text) status.textContent = text;
        status.classList.toggle("bad", Boolean(bad));
    }

    function enhanceAll() {
        main.querySelectorAll("table").forEach(enhance);
        for (const scroll of main.querySelectorAll(".scroll")) {
            fit(scroll);
            fitting.observe(scroll);
        }
        offer();
        remember();
        show();
    }

    async function refresh() {
        if (running) return;
        running = true;
        try {
            const answer = await fetch(location.href, {
                headers: { Accept: "text/html" }, cache: "no-store", signal: AbortSignal.timeout(10000),
            });
            if (!answer.ok) throw new Error(answer.status);
            const page = new DOMParser().parseFromString(await answer.text(), "text/html");
            if (!page.getElementById("facts")) throw new Error("not this page");
            const focused = document.activeElement;
            update(byId("facts"), page.getElementById("facts"));
            update(main, page.getElementById("main"));
            enhanceAll();
            // An element loses the focus when it is moved.
            if (focused !== document.activeElement && focused?.isConnected) focused.focus({ preventScroll: true });
            say(paused ? "Paused" : "Live");
        } catch (error) {
            say("No answer, retrying", true);
        } finally {
            running = false;
            plan();
        }
    }

    function plan() {
        clearTimeout(timer);
        if (!paused && !document.hidden) timer = setTimeout(refresh, EVERY);
    }

    document.addEventListener("visibilitychange", () => {
        clearTimeout(timer);
        if (!paused && !document.hidden) refresh();
    });

    pause.addEventListener("click", () => {
        paused = !paused;
        pause.setAttribute("aria-pressed", paused);
        say(paused ? "Paused" : "Live");
        if (paused) clearTimeout(timer);
        else refresh();
    });

    for (const view of ["resident", "reserved"]) {
        byId(view).addEventListener("click", () => {
            root.dataset.view = view;
            for (const other of ["resident", "reserved"]) {
                byId(other).setAttribute("aria-pressed", other === view);
            }
        });
    }

    figure.hidden = true;
    main.prepend(figure);
    byId("controls").hidden = false;
    enhanceAll();
    open();
    say("Live");
    plan();
})();
