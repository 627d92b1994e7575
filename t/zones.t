# Shared memory zones: their contents, compared with an independent reading.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;
use Test::Memstat::Dict;
use Test::Memstat::Zone;

use constant { KB => 1024, MB => 1048576, PAGE => page_size() };

run_tests();

__DATA__

=== TEST 1: the zones of nginx's modules, by name, owner and size
--- http_config
limit_req_zone $arg_key zone=req:1m rate=100r/s;
limit_conn_zone $arg_key zone=conn:1056k;
proxy_cache_path html/cache keys_zone=cache:1040k;
lua_shared_dict dict 1048k;
upstream up { zone up 128k; server 127.0.0.1:$TEST_NGINX_PORT_1; server 127.0.0.1:$TEST_NGINX_PORT_2 down; }
ssl_session_cache shared:ssl:1032k;
--- config
location /memstat { memstat; }
location /busy { limit_req zone=req burst=10 nodelay; limit_conn conn 10; empty_gif; }
location /up { proxy_pass http://up; proxy_cache cache; proxy_cache_valid any 1m; error_page 502 =200 /busy; }
include $TEST_NGINX_TESTS/dict_by_lua.conf;
--- error_log
connect\(\) failed
no live upstreams
--- perl
my %expected = (
    req   => [ 'ngx_http_limit_req_module',  1024 ],
    conn  => [ 'ngx_http_limit_conn_module', 1056 ],
    cache => [ 'ngx_http_proxy_module',      1040 ],
    dict  => [ 'ngx_http_lua_module',        1048 ],
    up    => [ 'ngx_http_upstream_module',    128 ],
    ssl   => [ 'ngx_http_ssl_module',        1032 ],
);
$t->get("/busy?key=" . 'k' x $_) for 1 .. 60;
$t->get("/up?key=$_") for 1 .. 20;
is fill($t, 'k', 300, 1, 100), 100, 'the dictionary takes what it is given';
my ($worker) = $t->workers;
my $reply = $t->fresh('/memstat?refresh=zones');
my $zones = $reply->{shared_zones};
# Read before the program that walks the zones touches their pages in the worker.
my %rss = map { $_ => mapping_rss($worker, $zones->{$_}{size}) } keys %expected;
is_deeply [ sort keys %$zones ],
    [ sort keys %expected, qw(memstat memstat_counters nginx_shared_zone) ], 'all of them';
for my $name (sort keys %expected) {
    my ($owner, $kilobytes) = @{ $expected{$name} };
    my $zone = $zones->{$name};
    is $zone->{owner}, $owner, "$name: owner";
    is $zone->{size}, $kilobytes * KB, "$name: size";
    is $zone->{generation}, 1, "$name: generation";
    ok $zone->{current}, "$name: current";
    is_deeply $zone->{notes}, [], "$name: nothing to note";
    agrees($worker, $zone, "$name: pages and slots");
    is all_did($reply, $name, qw(allocations failures)), all_reqs($reply, $name),
        "$name: what the processes did adds up to what the zone was asked";
    near process_of($reply, $worker)->{zones}{$name}{touched}, $rss{$name}, 2 * PAGE, "$name: touched";
}
is process_of($reply, $worker)->{zones}{conn}{allocations}, 60, 'one for each request with a key';
is process_of($reply, $worker)->{zones}{conn}{frees}, 60, 'given back at its end';
is $zones->{memstat}{owner}, 'ngx_http_memstat_module', 'our own';
my $counters = $zones->{nginx_shared_zone};
is_deeply [ @$counters{qw(owner pages slots largest_allocation)} ], [ undef, undef, undef, undef ],
    'the counters of nginx are no slab pool';
like "@{ $counters->{notes} }", qr/owner: .*pages, slots/, 'which is noted';
is $counters->{resident}, PAGE, 'they are there';

=== TEST 2: empty, half full, full, fragmented
--- http_config
lua_shared_dict dict 1m;
--- config
location /memstat { memstat; }
include $TEST_NGINX_TESTS/dict_by_lua.conf;
--- perl
my $overhead = overhead($t);
my $pages = sub { $_[0] * PAGE - $overhead - 6 };
check_dict($t, $overhead, 'empty');

fill($t, 'h', $pages->(3), 100, 141);
my $half = check_dict($t, $overhead, 'half full');
is int($half->{pages}{used} / 10), 12, 'of 254 pages, 42 times 3 are half';

drop($t, 'h', 100, 141);
# Large values, each followed by a small one.
for my $i (100 .. 109) {
    fill($t, 'b', $pages->(20), $i, $i);
    fill($t, 's', 3000, $i, $i);
}
drop($t, 'b', 100, 109);
my $holes = check_dict($t, $overhead, 'big holes between small blocks');
cmp_ok $holes->{pages}{free_runs}, '>=', 9, 'many runs';
cmp_ok $holes->{pages}{largest_free_run}, '<', $holes->{pages}{free} / 2, 'none has most of it';

# Entries of 1024 bytes each, until there is no memory.
my $count = fill($t, 'f', 1024 - $overhead - 8, 10000, 99999);
cmp_ok $count, '>', 900, "$count values of 1024 bytes";
my $full = check_dict($t, $overhead, 'full');
is $full->{pages}{free}, 0, 'no page is free';
drop($t, 'f', 10000, 10000 + $count, 5);
my $slots = check_dict($t, $overhead, 'full, with holes in its pages');
is $slots->{largest_allocation}, 1024, 'a slot is free, and no page' if !$slots->{pages}{free};
drop($t, 'f', 10000, 10000 + $count);
drop($t, 's', 100, 109);
check_dict($t, $overhead, 'empty again');

=== TEST 3: a gigabyte, hardly used and then completely touched
--- main_config
worker_processes 2;
--- http_config
lua_shared_dict dict 1024m;
--- config
location /memstat { memstat; }
include $TEST_NGINX_TESTS/dict_by_lua.conf;
--- perl
my ($available) = read_file('/proc/meminfo') =~ /^MemAvailable:\s+(\d+) kB/m;
my $size = 1024 * MB;
if ($available < 3 * 1048576) {
    $size = 256 * MB;
    $t->reload(http_config => 'lua_shared_dict dict 256m;');
}
my $zone = $t->fresh->{shared_zones}{dict};
is $zone->{size}, $size, 'its size';
# nginx itself clears a descriptor of 24 bytes for each page.
near $zone->{resident}, 24 * $zone->{pages}{total}, 16 * PAGE, 'what is in RAM are the descriptors';
cmp_ok $zone->{resident}, '<', $size / 100, 'less than a hundredth';
my ($worker) = $t->workers;
my $reply = $t->fresh('/memstat?refresh=zones');
cmp_ok process_of($reply, $_)->{zones}{dict}{touched}, '<', MB, "$_ has touched next to nothing"
    for $t->workers;
# The program that walks the zone touches all descriptors in the worker.
agrees($worker, $zone, 'hardly used: pages and slots');

my ($filler, $count) = split / /, get($t, "/fill?key=k&length=8000000&from=1&to=1000");
fill($t, 's', 60000, 1, 100000);
for my $nth (1 .. 3) {
    $reply = $t->fresh('/memstat?refresh=zones');
    $zone = $reply->{shared_zones}{dict};
    cmp_ok $zone->{resident}, '>', 0.99 * $size, "answer $nth: all of it is in RAM";
    cmp_ok $zone->{resident}, '<=', $size, "answer $nth: and no more";
    is $zone->{fill_percent}, 99, "answer $nth: full";
    is scalar(active_workers($reply)), 2, "answer $nth: both workers";
    unlike "@{ $_->{notes} }", qr/measur|being read/, "answer $nth: all is measured" for @{ $reply->{processes} };
}
agrees($filler, $zone, 'touched in full: pages and slots');
near process_of($reply, $_)->{zones}{dict}{touched}, mapping_rss($_, $size), 16 * PAGE,
    "$_: touched" for $t->workers;

# Without refresh=zones, each answer counts a piece.
$t->reload;
get($t, '/read?key=k&to=' . ($count - 1)) for 1 .. 10;
($worker) = $t->workers;
my $touched = $t->wait_for('the figures', sub {
    my $found = process_of($t->fresh, $worker)->{zones}{dict}{touched};
    return defined $found && abs($found - mapping_rss($worker, $size)) <= 64 * PAGE && $found;
});
cmp_ok $touched, '>', MB, 'a new worker has touched what it has read';

=== TEST 4: one zone
--- http_config
lua_shared_dict dict 1m;
limit_req_zone $remote_addr zone=req:1m rate=1r/s;
--- config
location /memstat { memstat; }
--- perl
my $reply = $t->memstat('/memstat?zone=req');
is_deeply [ keys %{ $reply->{shared_zones} } ], ['req'], 'only this zone';
is_deeply [ keys %{ $_->{zones} } ], ['req'], "only its use by $_->{kind}" for @{ $reply->{processes} };
my $text = $t->get('/memstat?zone=req&format=text')->{body};
like $text, qr/^req +1 +http_limit_req /m, 'its line';
like $text, qr/^worker 0 +\d+ +1 +1\.00 MiB /m, 'the worker\'s';
like $text, qr/^32 B +\d+/m, 'its slots';
unlike $text, qr/dict|glibc_heap/, 'nothing else';
for my $unknown ('nope', '', 'Req', '%00', 'x' x 1000) {
    my $answer = $t->get("/memstat?zone=$unknown");
    is $answer->{status}, 404, "an unknown zone";
    like $answer->{body}, qr/^unknown zone "[^"]{0,32}": known are "dict", .*"nginx_shared_zone" and "req"\n\z/,
        'the names that exist';
    is $answer->{headers}{'content-type'}, 'text/plain; charset=utf-8', 'as a sentence';
}
is $t->get('/memstat?zone=req&zone=dict')->{status}, 400, 'one at a time';
$t->reload(config => 'location /memstat { memstat; memstat_timeout 0ms; }');
is $t->get('/memstat?zone=req')->{status}, 200, 'a zone is known before it is read';

=== TEST 5: names of any bytes
--- config
location /memstat { memstat; }
--- perl
# The first one has the same name as nginx's mapping of its counters.
my %named = ("nginx_shared_zone" => 'nginx_shared_zone', "a\xffb" => 'a\xffb', "\xc3\xa4" => "\x{e4}", '<"x">&' => '<"x">&', "tab\x1b" => "tab\x1b");
my $zones = join '', map { my $name = s/"/\\"/gr; "limit_req_zone \$uri zone=$name:1m rate=1r/s;\n" } sort keys %named;
$t->reload(http_config => $zones);
my $reply = $t->fresh;
ok exists $reply->{shared_zones}{ $named{$_} }, 'it is there' for sort keys %named;
for my $name (sort keys %named) {
    my $encoded = join '', map { sprintf '%%%02x', ord } split //, $name;
    my $one = $t->memstat("/memstat?zone=$encoded");
    is_deeply [ keys %{ $one->{shared_zones} } ], [ $named{$name} ], "$encoded by itself";
}
is $reply->{shared_zones}{nginx_shared_zone}{owner}, 'ngx_http_limit_req_module', 'a zone goes by its own name';
is $reply->{shared_zones}{'nginx_shared_zone#2'}{size}, 1280, 'nginx\'s counters, which have it too, by another';
my $text = join '', map { $t->get("/memstat?format=text$_")->{body} } '', '&fields=shared_zones';
unlike $text, qr/[^\x20-\x7e\n]/, 'printable in the table';

=== TEST 6: memory that does not look like a slab pool is not read as one
--- http_config
limit_req_zone $remote_addr zone=req:1m rate=1r/s;
limit_conn_zone $remote_addr zone=conn:1040k;
--- config
location /memstat { memstat; }
--- perl
my ($worker) = $t->workers;
break_zone($worker, 1040 * KB);
my $zones = $t->fresh->{shared_zones};
my $broken = $zones->{conn};
is $broken->{$_}, undef, "$_ is not known" for qw(pages slots largest_allocation in_use fill_percent failures);
like "@{ $broken->{notes} }", qr/does not look like a slab pool \(min_shift\)/, 'why';
is $broken->{owner}, 'ngx_http_limit_conn_module', 'the owner is';
cmp_ok $broken->{resident}, '>=', PAGE, 'resident is';
agrees($worker, $zones->{req}, 'other zones are read');
mend_zone($worker, 1040 * KB);
agrees($worker, $t->fresh->{shared_zones}{conn}, 'it is read again');

=== TEST 7: the only process
--- main_config
master_process off;
--- http_config
lua_shared_dict dict 1m;
--- config
location /memstat { memstat; }
include $TEST_NGINX_TESTS/dict_by_lua.conf;
--- perl
my $overhead = overhead($t);
my $reply = $t->fresh;
is scalar @{ $reply->{processes} }, 1, 'one process';
my $pid = $reply->{processes}[0]{pid};
is fill($t, 'k', 3000, 1, 50), 50, 'it fills';
my $before = $reply->{processes}[0]{zones}{dict}{allocations};
$reply = $t->fresh('/memstat?refresh=zones');
my $uses = $reply->{processes}[0]{zones}{dict};
is $uses->{allocations} - $before, 50, 'counted';
agrees($pid, $reply->{shared_zones}{dict}, 'pages and slots');
is all_did($reply, 'dict', qw(allocations failures)), all_reqs($reply, 'dict'), 'adds up from the beginning';
cmp_ok $uses->{touched}, '>=', 50 * PAGE, 'touched';

=== TEST 8: the pages of all zones that a process has touched are its nginx_shm
--- main_config
worker_processes 2;
--- http_config
lua_shared_dict dict 8m;
limit_req_zone $remote_addr zone=req:1m rate=100r/s;
--- config
location /memstat { memstat; }
location /req { limit_req zone=req burst=100; empty_gif; }
include $TEST_NGINX_TESTS/dict_by_lua.conf;
--- perl
fill($t, 'k', 100000, 1, 40);
$t->get('/req') for 1 .. 5;
settled($t);
my $reply = $t->fresh('/memstat?refresh=zones');
for my $process (process_with($reply, kind => 'worker')) {
    my $touched = sum(map { $_->{touched} } values %{ $process->{zones} });
    my $shm = $process->{breakdown}{nginx_shm};
    near $touched, $shm->{resident}, 4 * PAGE, "$process->{pid}: resident";
    my $mapped = sum(map { int(($_->{mapped} + PAGE - 1) / PAGE) * PAGE } values %{ $process->{zones} });
    is $mapped, $shm->{reserved}, "$process->{pid}: reserved";
    # The pages were counted while the answer was being made.
    is_deeply [ grep { !defined || $_ > $reply->{elapsed_us} / 1000 + 1 } map { $_->{touched_ms_ago} } values %{ $process->{zones} } ],
        [], "$process->{pid}: counted for this answer";
}
is $reply->{totals}{shared_memory}, sum(map { $_->{resident} } values %{ $reply->{shared_zones} }), 'the total';
