# What matters is seen first, on every screen: one, four and sixteen workers, up to forty zones.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;
use Test::Memstat::Browser;

# One for all tests.
my $browser;
sub browser { return $browser //= Test::Memstat::Browser->new }
END { $browser->stop if $browser }

# Cells of the first COLUMNS columns of a table that are not seen in full: cut off by the edge behind
# which the table scrolls, or by their own box.
use constant CUT => <<'END';
const [id, columns] = arguments;
const table = document.getElementById(id);
const edge = table.closest('.scroll').getBoundingClientRect();
const cut = [];
for (const row of table.rows) {
    for (const cell of [...row.cells].slice(0, columns)) {
        const box = cell.getBoundingClientRect();
        const range = document.createRange();
        range.selectNodeContents(cell);
        const text = range.getBoundingClientRect();
        if (box.left < edge.left - 1 || text.right > edge.right + 1 || text.right > box.right + 1)
            cut.push(cell.textContent);
    }
}
return cut;
END

# Numbers on the page that are not seen in full: cut off by a box or by the edge behind which a table
# scrolls, or over the side of their cell. Columns that start behind that edge are reached by scrolling.
use constant CLIPPED => <<'END';
const clipped = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
    const [node, element] = [walker.currentNode, walker.currentNode.parentElement];
    if (!/\d/.test(node.nodeValue) || !element.checkVisibility() || element.closest('select, .legend caption')) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const text = range.getBoundingClientRect();
    for (let box = element; box; box = box.parentElement) {
        const style = getComputedStyle(box);
        const sides = box.getBoundingClientRect();
        const isRoot = box === document.documentElement;
        const isCell = style.display === 'table-cell';
        if (!isRoot && !isCell && (style.display === 'inline' || style.overflowX === 'visible')) continue;
        const left = sides.left + box.clientLeft;
        const right = isCell ? sides.right : left + box.clientWidth;
        const scrolls = style.overflowX === 'auto' || style.overflowX === 'scroll';
        if (scrolls && !isRoot && (text.left > right - 1 || text.right < left + 1)) break;
        if (text.left < left - 1 || text.right > right + 1) {
            clipped.push(`${node.nodeValue.trim()} in ${box.localName}.${box.className}`);
            break;
        }
    }
}
return clipped;
END

sub cut {
    my ($browser, $id, $columns) = @_;
    return $browser->run(CUT =~ s/arguments/["$id", $columns]/r);
}

# Calls a function for each colour scheme and width, after the page was opened in this form. It gets the
# width and the words for it. With TEST_NGINX_PICTURES, the page is written to that folder as a picture.
sub on_each_screen {
    my ($t, $name, $check) = @_;
    my $browser = browser();
    for my $scheme (qw(light dark)) {
        for my $width (1280, 400) {
            my $when = "$scheme, $width wide";
            $browser->look($scheme, $width);
            $browser->open($t->base . '/memstat');
            $check->($width, $when);
            is_deeply $browser->run(CLIPPED), [], "$when: no number is clipped";
            is_deeply cut($browser, 'table-zones', $width > 1000 ? 8 : 3), [], "$when: no figure of a zone is cut";
            is_deeply cut($browser, 'table-processes', $width > 1000 ? 13 : 3), [], "$when: nor of a process";
            is $browser->run('const root = document.documentElement; return root.scrollWidth - root.clientWidth'), 0,
                "$when: nothing sticks out";
            my $resident = $browser->run('return [...document.querySelectorAll("#table-processes tbody tr")].map((row) => +row.cells[1].dataset.sort)');
            is_deeply $resident, [ sort { $b <=> $a } @$resident ], "$when: the largest process first";
            is $browser->run('return document.querySelectorAll(".notice").length'), 0, "$when: nothing to warn of";
            is $browser->run('return document.querySelectorAll("main .unknown").length'), 0, "$when: nothing unknown";
            my $folder = $ENV{TEST_NGINX_PICTURES} or next;
            open my $file, '>:raw', "$folder/screens-$name-$scheme-$width.png" or die "cannot write: $!\n";
            print $file $browser->picture;
        }
    }
    $browser->look('light', 1280);
    return;
}

# The names of a column of a table in the text, from its head to the empty line.
sub rows_of {
    my ($text, $head) = @_;
    my ($table) = $text =~ /^(\Q$head\E.*?)\n\n/ms or return;
    my ($first, @rows) = split /\n/, $table;
    return @rows;
}

# Zones of which one is full, and one hardly used that is larger than all others.
sub many_zones {
    return join '', "limit_req_zone \$arg_key zone=victim:32k rate=1000r/s;\n",
        map { "lua_shared_dict an_application_with_a_long_name_has_a_dict_$_ " . (1 + $_ % 7) . "m;\n" } 1 .. 39;
}

run_tests();

__DATA__

=== TEST 1: sixteen workers and forty zones
--- main_config
worker_processes 16;
--- http_config eval
::many_zones()
--- config
client_header_timeout 5s;
location /memstat { memstat; }
location /fill {
    content_by_lua_block {
        for zone = 1, 39 do
            local dict = ngx.shared["an_application_with_a_long_name_has_a_dict_" .. zone]
            for i = 1, zone * 20 do dict:set(i, string.rep("x", 500)) end
        end
    }
}
location /limited { limit_req zone=victim burst=100000 nodelay; empty_gif; }
--- perl
$t->get('/fill');
$t->get("/limited?key=$_" . 'x' x 100) for 1 .. 400;
my $reply = $t->fresh;
my $failures = $reply->{shared_zones}{victim}{failures};
cmp_ok $failures, '>', 100, 'allocations fail in the smallest zone';

my $text = $t->get('/memstat?format=text')->{body};
my @rows = rows_of($text, 'zone (');
like $rows[0], qr/^victim +$failures /, 'it is the first of the text';
unlike "@rows", qr/^memstat/m, 'the zones of the module are not';
my @names = map { /^(\S+)/ } @rows;
my %names = map { $_ => 1 } @names;
is scalar(keys %names), scalar(@names), 'no two names look alike';
is scalar(grep { length > 100 } split /\n/, $text), 0, 'no line is wider than the screen';
my ($first) = rows_of($text, 'process (');
my ($largest) = sort { $b->{system}{resident} <=> $a->{system}{resident} } @{ $reply->{processes} };
like $first, qr/^worker \d+ +$largest->{pid} /, 'the largest process is first';

my $browser = browser();
on_each_screen($t, 16, sub {
    my ($width, $when) = @_;
    my $zone = $browser->run('const [name, full, failures] = document.querySelector("#table-zones tbody tr").cells; return [name.textContent, full.querySelector("svg").getAttribute("class"), failures.textContent]');
    is_deeply $zone, [ 'victim', 'fill full', $failures ], "$when: the zone that fails is first, and red";
    cmp_ok $browser->run('return Math.max(...[...document.querySelectorAll("#table-zones tbody tr")].map((row) => row.getBoundingClientRect().height))'),
        '<', 120, "$when: no name stands on end";
});

# One process, one zone.
my ($worker) = $t->workers;
$browser->open($t->base . "/memstat?pid=$worker");
is_deeply $browser->run('return [...document.querySelectorAll("main > section")].map((section) => section.id).slice(0, 2)'), [ 'health', 'details' ], 'of one process: the health of the server, then itself';
ok $browser->run("return document.querySelector('#p$worker').open"), 'and open';
$browser->open($t->base . '/memstat?zone=victim');
is $browser->run('return document.querySelector(".back a").textContent'), 'The whole server', 'the way back';

=== TEST 2: one worker, and nothing but this module
--- main_config
worker_processes 1;
--- config
client_header_timeout 5s;
location /memstat { memstat; }
--- perl
my ($worker) = $t->workers;
$t->fresh;
on_each_screen($t, 1, sub {
    browser()->click("#p$worker summary");
    ok browser()->run("return document.querySelector('#p$worker').open"), "$_[1]: the worker is open";
});

=== TEST 3: four workers with Lua, a cache and limits
--- main_config
worker_processes 4;
--- http_config
lua_shared_dict sessions 8m;
limit_req_zone $arg_key zone=requests:2m rate=1000r/s;
proxy_cache_path html/cache keys_zone=pages:4m;
init_worker_by_lua_block { kept = {} for i = 1, 20000 do kept[i] = "value " .. i end }
--- config
client_header_timeout 5s;
location /memstat { memstat; }
location /fill {
    content_by_lua_block { for i = 1, 5000 do ngx.shared.sessions:set(i, string.rep("x", 1000)) end }
}
location /limited { limit_req zone=requests burst=100000 nodelay; empty_gif; }
--- perl
$t->get('/fill');
$t->get("/limited?key=$_") for 1 .. 50;
my ($worker) = $t->workers;
$t->fresh;
on_each_screen($t, 4, sub {
    browser()->click("#p$worker summary");
    ok browser()->run("return document.querySelector('#p$worker').open"), "$_[1]: a worker is open";
});
