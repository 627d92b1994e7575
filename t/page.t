# The page, in a real browser.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;
use Test::Memstat::Browser;

# All tests use the same browser.
my $browser;
sub browser { return $browser //= Test::Memstat::Browser->new }
END { $browser->stop if $browser }

# Returns the sectors of the pies on the page: for each pie's class and position, name => bytes.
use constant SECTORS => <<'END';
const pies = {};
for (const pie of document.querySelectorAll('svg.pie')) {
    const place = pie.closest('details')?.id ?? 'server';
    const figure = pie.closest('figure').className;
    const view = pie.classList.contains('view-reserved') ? 'reserved' : 'resident';
    const sectors = pies[[place, figure, view].join(' ')] = {};
    for (const sector of pie.querySelectorAll('path')) {
        sectors[sector.dataset.name] = +sector.dataset.bytes;
    }
}
return pies;
END

# Returns the angle of each drawn sector of a pie, as a fraction of the circle.
use constant ANGLES => <<'END';
const shares = {};
for (const sector of document.querySelectorAll('#server figure.application svg.view-resident path')) {
    const [, x0, y0, large, x1, y1] = sector.getAttribute('d')
        .match(/^M(\S+) (\S+) A\S+ \S+ 0 ([01]) 1 (\S+) (\S+)/).map(Number);
    let turn = (Math.atan2(x1, -y1) - Math.atan2(x0, -y0)) / (2 * Math.PI);
    if (turn < 0) turn += 1;
    shares[sector.dataset.name] = turn;
}
return shares;
END

# Counts the page's requests and pending timers, from its first line on.
use constant COUNTING => <<'END';
(() => {
    const [plan, drop, ask, planned] = [window.setTimeout, window.clearTimeout, window.fetch, new Set()];
    Object.assign(window, { asked: 0, asking: 0 });
    window.planned = () => planned.size;
    window.setTimeout = (act, ...more) => {
        const id = plan(() => { planned.delete(id); act(); }, ...more);
        planned.add(id);
        return id;
    };
    window.clearTimeout = (id) => { planned.delete(id); drop(id); };
    window.fetch = async (...what) => {
        window.asked += 1;
        window.asking += 1;
        try { return await ask(...what); } finally { window.asking -= 1; }
    };
})();
END

# Passes if the console is empty and no other address was requested.
sub quiet {
    my ($t) = @_;
    my @bad = grep { $_->{level} ne 'INFO' && $_->{level} ne 'DEBUG' } $browser->console;
    is join("\n", map { "$_->{level}: $_->{message}" } @bad), '', 'the console is free of errors';
    my $base = $t->base;
    # The browser's own pages are no requests to a server.
    my @elsewhere = grep { !m{^\Q$base\E/memstat} && !/^(?:data|chrome):/ } $browser->requests;
    is join("\n", @elsewhere), '', 'nothing is requested from anywhere else';
}

# Returns the sectors that the breakdowns and systems of a reply should have.
sub sectors_of {
    my ($reply) = @_;
    my %pies;
    for my $process (@{ $reply->{processes} }) {
        my ($place, $system) = ("p$process->{pid}", $process->{system});
        $pies{"$place system resident"} = {
            resident => $system->{resident}, swap => $system->{swap},
            rest     => $system->{virtual} - $system->{resident} - $system->{swap},
        };
        my $breakdown = $process->{breakdown} or next;
        for my $view (qw(resident reserved)) {
            $pies{"$place application $view"} = { map { $_ => $breakdown->{$_}{$view} } keys %$breakdown };
        }
    }
    my $sum = sub { my ($name) = @_; return sum(map { $_->{system}{$name} } @{ $reply->{processes} }) };
    $pies{'server system resident'} = {
        resident => $sum->('resident'), swap => $sum->('swap'),
        rest     => $sum->('virtual') - $sum->('resident') - $sum->('swap'),
    };
    my (%all, $unattributed);
    for my $process (@{ $reply->{processes} }) {
        my ($breakdown, $system) = @$process{qw(breakdown system)};
        $unattributed += $system->{resident} - $system->{resident_shmem} unless $breakdown;
        $all{$_} += $breakdown->{$_}{resident} for keys %{ $breakdown // {} };
    }
    $pies{'server application resident'} =
        { %all, nginx_shm => $reply->{totals}{shared_memory}, unattributed => $unattributed };
    # An entry of 0 has no sector.
    for my $pie (values %pies) { delete @$pie{ grep { !$pie->{$_} } keys %$pie } }
    return \%pies;
}

# A browser opens connections before it has a request. "client_header_timeout 1s" closes them before the
# server is stopped.
run_tests();

__DATA__

=== TEST 1: a browser gets the page, and the sectors of its pies are the figures of JSON
--- main_config
worker_processes 2;
--- http_config
limit_req_zone $binary_remote_addr zone=one:4m rate=1r/s;
--- config
client_header_timeout 1s;
location /memstat { memstat; }
--- perl
my $browser = browser();
$browser->requests;
$browser->console;
$browser->look('light', 1280);
# After this, everything that an answer needs is loaded.
$browser->open($t->base . '/memstat');
settled($t);
my ($expected, $pies);
# Repeats until nothing changes between two replies with a page in between.
for (1 .. 50) {
    my $before = sectors_of($t->fresh);
    $browser->open($t->base . '/memstat');
    $pies     = $browser->run(SECTORS);
    $expected = sectors_of($t->fresh);
    last if eq_hash($before, $expected);
}
is $browser->title, 'nginx memory', 'the page';
my $reserved = delete $pies->{'server application reserved'};
is_deeply $pies, $expected, 'all pies';
# Workers and master have their own memory; the zone counts once.
near $reserved->{nginx_shm}, sum(map { $_->{size} } values %{ $t->memstat->{shared_zones} }), 65536,
    'the zones are reserved once';
my $resident = $expected->{'server application resident'};
my $total    = sum(values %$resident);
my $angles   = $browser->run(ANGLES);
is_deeply [ sort keys %$angles ], [ sort keys %$resident ], 'each sector is drawn';
near($angles->{$_}, $resident->{$_} / $total, 0.001, "as wide as its share: $_") for keys %$resident;
quiet($t);

=== TEST 2: it refreshes itself without being loaded again
--- http_config
lua_shared_dict dict 4m;
--- config
client_header_timeout 1s;
location /memstat { memstat; }
location /set { content_by_lua_block { ngx.shared.dict:set("key", string.rep("x", 1048576)) ngx.say("ok") } }
--- perl
my $browser = browser();
$browser->requests;
$browser->console;
my $counting = $browser->devtools('Page.addScriptToEvaluateOnNewDocument', source => COUNTING);
$browser->open($t->base . '/memstat');
my ($worker) = $t->workers;
$browser->run('window.mark = 7; window.row = document.querySelector("#table-zones tr[data-key^=dict]")');
$browser->click("#p$worker summary");
my $in_use = 'return +document.querySelector("#table-zones tr[data-key^=dict]").cells[3].dataset.sort';
my $before = $browser->run($in_use);
my $time   = $browser->run('return document.querySelector("#time").textContent');
is $t->get('/set')->{status}, 200, 'a megabyte';
my $after = $browser->wait_for('the new figure', "const n = +document.querySelector('#table-zones tr[data-key^=dict]').cells[3].dataset.sort; return n >= $before + 1048576 && n");
is $after, $t->memstat->{shared_zones}{dict}{in_use}, 'as in JSON';
isnt $browser->run('return document.querySelector("#time").textContent'), $time, 'the time of the reply';
is $browser->run('return window.mark'), 7, 'the same page';
ok $browser->run('return window.row.isConnected'), 'the same row';
ok $browser->run("return document.querySelector('#p$worker').open"), 'what was open stays so';
is $browser->run('return document.querySelector("#status").textContent'), 'Live', 'it says so';
ok !$browser->run('return document.querySelector("#history").hidden'), 'there is a history';
like $browser->run('return document.querySelector("#history svg").getAttribute("aria-label")'),
    qr/^Whole server: resident memory of the last \d+ s, /, 'it can be read';

# When paused, it sends no more requests.
$browser->click('#pause');
is $browser->run('return document.querySelector("#status").textContent'), 'Paused', 'paused';
$browser->wait_for('the last request ends', 'return asking === 0');
is $browser->run('return planned()'), 0, 'no request is planned while paused';
my $asked = $browser->run('return asked');
cmp_ok $asked, '>', 0, 'as there were before';
$browser->click('#pause');
$browser->wait_for('it goes on', "return asked > $asked && planned() === 1");

# Nor when hidden.
my $shown = 'document.dispatchEvent(new Event("visibilitychange")); return [asking, planned()]';
$browser->wait_for('it rests', 'return asking === 0 && planned() === 1');
is_deeply $browser->run("Object.defineProperty(document, 'hidden', { value: true, configurable: true }); $shown"),
    [ 0, 0 ], 'no request is planned while hidden';
is_deeply $browser->run("delete document.hidden; $shown"), [ 1, 0 ], 'it asks as soon as it is seen';
$browser->wait_for('it goes on', 'return asking === 0 && planned() === 1');
$browser->devtools('Page.removeScriptToEvaluateOnNewDocument', %$counting);
quiet($t);

=== TEST 3: a process is selected, the view is switched, tables are sorted, also by keyboard
--- main_config
worker_processes 3;
--- config
client_header_timeout 1s;
location /memstat { memstat; }
--- perl
my $browser = browser();
$browser->requests;
$browser->console;
$browser->open($t->base . '/memstat');
my ($first, $second) = $t->workers;
my $shown = 'return [...document.querySelectorAll("main > section, details")].filter((e) => e.checkVisibility()).map((e) => e.id)';
my @all = @{ $browser->run($shown) };
ok((grep { $_ eq 'server' } @all), 'all at first');
is_deeply $browser->run('return [...document.querySelectorAll("#choice option")].map((o) => o.value)'),
    [ 'server', map { "p$_" } $t->master, $t->workers ], 'what can be chosen';
$browser->run("const c = document.querySelector('#choice'); c.value = 'p$second'; c.dispatchEvent(new Event('change'))");
is_deeply $browser->run($shown), [ 'details', "p$second" ], 'only the process that is chosen';
ok $browser->run("return document.querySelector('#p$second').open"), 'open';
# A refresh keeps this state.
my $time = $browser->run('return document.querySelector("#time").textContent');
$browser->wait_for('a refresh', "return document.querySelector('#time').textContent !== '$time'");
is_deeply $browser->run($shown), [ 'details', "p$second" ], 'after a refresh too';
$browser->run("const c = document.querySelector('#choice'); c.value = 'server'; c.dispatchEvent(new Event('change'))");
is scalar @{ $browser->run($shown) }, scalar @all, 'all again';

my $views = 'return ["resident", "reserved"].map((v) => document.querySelector("#server .pie.view-" + v).checkVisibility())';
is_deeply [ map { $_ ? 1 : 0 } @{ $browser->run($views) } ], [ 1, 0 ], 'resident at first';
$browser->click('#reserved');
is_deeply [ map { $_ ? 1 : 0 } @{ $browser->run($views) } ], [ 0, 1 ], 'then reserved';
is $browser->run('return document.querySelector("#reserved").getAttribute("aria-pressed")'), 'true', 'it says so';
$browser->click('#resident');

my $column = sub { my ($i) = @_; return @{ $browser->run("return [...document.querySelectorAll('#table-processes tbody tr')].map((r) => +r.cells[$i].dataset.sort)") } };
$browser->click('#table-processes th:nth-child(2) button');
my @resident = $column->(1);
is_deeply \@resident, [ sort { $b <=> $a } @resident ], 'largest first';
is $browser->run('return document.querySelector("#table-processes th:nth-child(2)").getAttribute("aria-sort")'), 'descending', 'it says so';
# Enter on the column head with the focus.
$browser->type('#table-processes th:nth-child(4) button', "\x{e007}");
$browser->press("\x{e007}");
my @pids = $column->(3);
is_deeply \@pids, [ sort { $a <=> $b } @pids ], 'smallest first, by keyboard';
$time = $browser->run('return document.querySelector("#time").textContent');
$browser->wait_for('a refresh', "return document.querySelector('#time').textContent !== '$time'");
is_deeply [ $column->(3) ], \@pids, 'sorted after a refresh too';
is $browser->run('return document.activeElement.closest("th")?.cellIndex'), 3, 'the focus stays';
ok $browser->run('return getComputedStyle(document.activeElement).outlineStyle !== "none"'), 'the focus is seen';
quiet($t);

=== TEST 4: names with markup in them are text
--- http_config
memstat_uri on;
limit_req_zone $binary_remote_addr "zone=<img src=x onerror='window.hacked=1'>:1m" rate=1r/s;
limit_req_zone $binary_remote_addr "zone=</td><script>window.hacked=2</script>:1m" rate=1r/s;
limit_req_zone $binary_remote_addr "zone=&lt;b&gt; \"q\":1m" rate=1r/s;
limit_req_zone $binary_remote_addr "zone=a‮b:1m" rate=1r/s;
--- config
client_header_timeout 1s;
server_name "<b>server</b>";
location /memstat { memstat; }
location /held { proxy_pass http://127.0.0.1:$TEST_NGINX_PORT_1; }
--- perl
my $browser = browser();
my $silent = silent_server($t->port(1));
my ($clients, $held) = held($t, $silent, '/held?<script>window.hacked=3</script>');
$browser->requests;
$browser->console;
$browser->open($t->base . '/memstat');
my $zones = $browser->run('return [...document.querySelectorAll("#table-zones tbody th")].map((c) => c.textContent)');
my %there = map { $_ => 1 } @$zones;
ok $there{$_}, "as it is: $_" for q{<img src=x onerror='window.hacked=1'>}, '</td><script>window.hacked=2</script>', '&lt;b&gt; "q"', 'a\u{202e}b';
my $text = $browser->run('return document.body.textContent');
like $text, qr{GET /held\?<script>window\.hacked=3</script> HTTP/1\.1}, 'the request line';
my $time = $browser->run('return document.querySelector("#time").textContent');
$browser->wait_for('a refresh', "return document.querySelector('#time').textContent !== '$time'");
is $browser->run('return window.hacked ?? null'), undef, 'none of it runs';
is $browser->run('return document.querySelectorAll("main img, main script, main b").length'), 0, 'none of it is markup';
quiet($t);
$_->close for @$held, @$clients;

=== TEST 5: without JavaScript, everything can be read
--- config
client_header_timeout 1s;
location /memstat { memstat; }
--- perl
my $browser = browser();
$browser->devtools('Emulation.setScriptExecutionDisabled', value => JSON::PP::true);
$browser->open($t->base . '/memstat');
$browser->devtools('Emulation.setScriptExecutionDisabled', value => JSON::PP::false);
my ($worker) = $t->workers;
ok $browser->run('return document.querySelector("#controls").hidden'), 'no controls that do nothing';
is $browser->run('return document.querySelectorAll("thead button").length'), 0, 'nor buttons';
ok $browser->run("return document.querySelector('$_').checkVisibility()"), $_
    for '#server .system .pie', '#server .application .pie', '#table-processes', "#p$worker summary";
$browser->click("#p$worker summary");
ok $browser->run("return document.querySelector('#p$worker .pie').checkVisibility()"), 'a process opens';

=== TEST 6: light and dark, wide and narrow
--- http_config
limit_req_zone $binary_remote_addr zone=a_zone_with_a_rather_long_name_that_goes_on_and_on_and_on_and_on:1m rate=1r/s;
--- config
client_header_timeout 1s;
location /memstat { memstat; }
--- perl
my $browser = browser();
my %background;
for my $scheme (qw(light dark)) {
    for my $width (360, 768, 1280) {
        $browser->look($scheme, $width);
        $browser->open($t->base . '/memstat');
        my ($worker) = $t->workers;
        $browser->click("#p$worker summary");
        is $browser->run('const root = document.documentElement; return root.scrollWidth - root.clientWidth'), 0, "$scheme, $width wide: nothing sticks out";
        # Pies and legends are next to or below each other; the parts of a figure do not overlap.
        my $overlaps = $browser->run(<<'END');
const overlaps = [];
for (const chart of document.querySelectorAll('.chart')) {
    const boxes = [...chart.children].filter((e) => e.checkVisibility()).map((e) => e.getBoundingClientRect());
    boxes.forEach((a, i) => boxes.slice(i + 1).forEach((b) => {
        if (a.right > b.left + 1 && b.right > a.left + 1 && a.bottom > b.top + 1 && b.bottom > a.top + 1) overlaps.push([a.toJSON(), b.toJSON()]);
    }));
}
return overlaps.length;
END
        is $overlaps, 0, "$scheme, $width wide: nothing overlaps";
        $background{$scheme} = $browser->run('return getComputedStyle(document.body).backgroundColor');
        if (my $folder = $ENV{TEST_NGINX_PICTURES}) {
            open my $file, '>:raw', "$folder/$scheme-$width.png" or die "cannot write: $!\n";
            print $file $browser->picture;
        }
    }
}
isnt $background{light}, $background{dark}, 'dark is another';
$browser->look('light', 1280);
