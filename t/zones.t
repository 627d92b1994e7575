# Shared memory zones: what is in them, read independently, and who did what to them.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;
use Test::Memstat::Zone;

use constant { KB => 1024, MB => 1048576, PAGE => page_size() };

# What a block that fills the dictionary "dict" has in its configuration: each location answers
# with the worker's pid and what the dictionary said.
my $LUA = <<'END';
location /set {
    content_by_lua_block {
        local ok, err = ngx.shared.dict:safe_set(ngx.var.arg_key, string.rep("x", ngx.var.arg_length))
        ngx.say(ngx.worker.pid(), " ", err or "ok")
    }
}
location /read {
    content_by_lua_block {
        for i = 1, ngx.var.arg_to do
            assert(ngx.shared.dict:get(ngx.var.arg_key .. i))
        end
        ngx.say("ok")
    }
}
location /delete { content_by_lua_block { ngx.shared.dict:delete(ngx.var.arg_key) ngx.say("ok") } }
# Until the test makes the file.
location /hold {
    content_by_lua_block {
        ngx.say(ngx.worker.pid())
        ngx.flush(true)
        repeat ngx.sleep(0.02) until io.open(ngx.var.document_root .. "/release")
    }
}
location /free { content_by_lua_block { ngx.say(ngx.shared.dict:free_space()) } }
# From a first number to a last one, in the steps given, or until there is no memory.
location /fill {
    content_by_lua_block {
        local value, count = string.rep("x", ngx.var.arg_length), 0
        for i = ngx.var.arg_from, ngx.var.arg_to do
            if not ngx.shared.dict:safe_set(ngx.var.arg_key .. i, value) then break end
            count = count + 1
        end
        ngx.say(ngx.worker.pid(), " ", count)
    }
}
location /drop {
    content_by_lua_block {
        for i = ngx.var.arg_from, ngx.var.arg_to, ngx.var.arg_step or 1 do
            ngx.shared.dict:delete(ngx.var.arg_key .. i)
        end
        ngx.say("ok")
    }
}
END

sub get { my ($t, $path) = @_;
    my $answer = $t->get($path);
    die "$path: $answer->{status}\n" unless $answer->{status} == 200;
    return $answer->{body} =~ s/\n\z//r;
}

# What safe_set says.
sub set { my ($t, $key, $length) = @_; return get($t, "/set?key=$key&length=$length") =~ s/^\d+ //r }

# How many values went in.
sub fill { my ($t, $key, $length, $from, $to) = @_;
    return get($t, "/fill?key=$key&length=$length&from=$from&to=$to") =~ s/^\d+ //r;
}

sub drop { my ($t, $key, $from, $to, $step) = @_;
    return get($t, "/drop?key=$key&from=$from&to=$to" . ($step ? "&step=$step" : ''));
}

# What an entry of the dictionary takes beyond its key and value.
sub overhead {
    my ($t) = @_;
    my $requested = sub { sum(map { $_->{zones}{dict}{bytes_requested} } @{ $t->fresh->{processes} }) };
    my $before = $requested->();
    is set($t, 'k', 5000), 'ok', 'an entry to measure';
    my $bytes = $requested->() - $before - 5001;
    get($t, '/delete?key=k');
    return $bytes;
}

# The dictionary's figures are those of an independent reading, and what they say can be had can be.
sub check_dict {
    my ($t, $overhead, $when) = @_;
    my ($worker) = $t->workers;
    my $zone = $t->fresh->{shared_zones}{dict};
    agrees($worker, $zone, "$when: pages and slots");
    is $zone->{pages}{free} * PAGE, get($t, '/free'), "$when: free_space() agrees";
    my $free_slots = sum(map { $_ * $zone->{slots}{$_}{free} } keys %{ $zone->{slots} });
    is $zone->{in_use}, $zone->{pages}{used} * PAGE - $free_slots, "$when: in use";
    is $zone->{fill_percent}, int(100 * $zone->{in_use} / ($zone->{pages}{total} * PAGE)), "$when: fill";
    my $largest = $zone->{largest_allocation};
    my $length  = $largest - $overhead - length 'probe';
    if ($length >= 0) {
        is set($t, 'probe', $length + 1), 'no memory', "$when: a byte more than $largest fails";
        is set($t, 'probe', $length), 'ok', "$when: $largest succeeds";
        get($t, '/delete?key=probe');
    }
    else {
        is set($t, 'probe', 0), 'no memory', "$when: with $largest not even an empty value succeeds";
    }
    return $zone;
}

# What all processes did to a zone, added up.
sub all_did {
    my ($reply, $zone, @figures) = @_;
    return sum(map { my $uses = $_->{zones}{$zone}; map { $uses->{$_} } @figures } @{ $reply->{processes} });
}

# What the zone itself says was asked of it.
sub all_reqs {
    my ($reply, $zone) = @_;
    my $found = $reply->{shared_zones}{$zone};
    return $found->{pages}{reqs} + sum(map { $_->{reqs} } values %{ $found->{slots} });
}

sub expand { my ($text) = @_; return $text =~ s/^LUA$/$LUA/mr }

{
    no warnings 'redefine';
    my $write = \&Test::Memstat::Server::write_conf;
    *Test::Memstat::Server::write_conf = sub {
        my ($self, %changed) = @_;
        $self->{sections}{config} = expand($self->{sections}{config} // '');
        return $write->($self, %changed);
    };
}

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
LUA
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
# Before the program that reads them touches them, on behalf of the worker.
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
LUA
--- perl
my $overhead = overhead($t);
my $pages = sub { $_[0] * PAGE - $overhead - 6 };
check_dict($t, $overhead, 'empty');

fill($t, 'h', $pages->(3), 100, 141);
my $half = check_dict($t, $overhead, 'half full');
is int($half->{pages}{used} / 10), 12, 'of 254 pages, 42 times 3 are half';

drop($t, 'h', 100, 141);
# Big values, and behind each a small one.
for my $i (100 .. 109) {
    fill($t, 'b', $pages->(20), $i, $i);
    fill($t, 's', 3000, $i, $i);
}
drop($t, 'b', 100, 109);
my $holes = check_dict($t, $overhead, 'big holes between small blocks');
cmp_ok $holes->{pages}{free_runs}, '>=', 9, 'many runs';
cmp_ok $holes->{pages}{largest_free_run}, '<', $holes->{pages}{free} / 2, 'none has most of it';

# Of 1024 bytes each, until there is no memory.
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

=== TEST 3: failures, in the process that had them
--- main_config
worker_processes 2;
--- http_config
lua_shared_dict dict 1m;
lua_shared_dict other 1m;
--- config
location /memstat { memstat; }
LUA
--- perl
my ($one, $two) = $t->workers;
my $before = $t->fresh;
is $before->{shared_zones}{dict}{failures}, 0, 'none yet';
my %failed = ($one => 0, $two => 0);
# Larger than half a page, and smaller: nginx itself counts the latter only.
for my $i (1 .. 40) {
    my ($pid, $said) = split / /, get($t, "/set?key=k$i&length=2000000"), 2;
    is $said, 'no memory', 'two megabytes in a zone of one';
    $failed{$pid}++;
}
my ($filler) = split / /, get($t, '/fill?key=page&length=4000&from=1&to=1000');
$failed{$filler}++;
my $small = 0;
for (my $i = 1; $small < 6; $i++) {
    my ($pid, $said) = split / /, get($t, "/set?key=s$i&length=900"), 2;
    next unless $said eq 'no memory';
    $failed{$pid}++;
    $small++;
}
my $reply = $t->fresh;
my $zone = $reply->{shared_zones}{dict};
is $zone->{pages}{fails}, 41, 'whole pages: 40, and the last one of the filling';
is $zone->{slots}{1024}{fails}, 6, 'slots';
is $zone->{failures}, 47, 'together';
for my $pid ($one, $two) {
    my $uses = process_of($reply, $pid)->{zones};
    is $uses->{dict}{failures}, $failed{$pid}, "process $pid";
    is $uses->{other}{failures}, 0, "process $pid: none in another zone";
}
is all_did($reply, 'dict', qw(allocations failures)), all_reqs($reply, 'dict'), 'nothing is lost';
is $zone->{pages}{free} * PAGE, get($t, '/free'), 'free_space() agrees';

=== TEST 4: traffic from several workers at once
--- main_config
worker_processes 3;
--- http_config
limit_req_zone $arg_key zone=req:1m rate=1r/m;
lua_shared_dict dict 4m;
init_by_lua_block { ngx.shared.dict:set("first", string.rep("x", 10000)) }
init_worker_by_lua_block { ngx.shared.dict:set("worker" .. ngx.worker.id(), string.rep("x", 5000)) }
--- config
location /memstat { memstat; }
location /work {
    limit_req zone=req burst=10 nodelay;
    content_by_lua_block {
        local key = ngx.var.arg_key
        assert(ngx.shared.dict:add(key, string.rep("x", key % 7000)))
        if key % 3 == 0 then ngx.shared.dict:delete(key) end
        ngx.say(ngx.worker.pid(), " ", key)
    }
}
--- perl
my $before = $t->fresh;
my @pipes;
for my $client (1 .. 4) {
    my $pid = open(my $pipe, '-|') // die "cannot fork: $!\n";
    if (!$pid) {
        for my $i (1 .. 150) {
            my $answer = $t->get('/work?key=' . ($client * 1000 + $i));
            print $answer->{status} == 200 ? $answer->{body} : "failed\n";
        }
        close STDOUT;
        POSIX::_exit(0);
    }
    push @pipes, $pipe;
}
my (%adds, %deletes, %bytes);
for my $pipe (@pipes) {
    while (<$pipe>) {
        my ($pid, $key) = /^(\d+) (\d+)$/ or die "a request failed\n";
        $adds{$pid}++;
        $deletes{$pid} += $key % 3 == 0;
        $bytes{$pid} += $key % 7000;
    }
    close $pipe;
}
is sum(values %adds), 600, 'all were served';
my $after = $t->fresh;
for my $pid ($t->workers) {
    my ($then, $now) = map { process_of($_, $pid)->{zones} } $before, $after;
    my $did = sub { $now->{ $_[0] }{ $_[1] } - $then->{ $_[0] }{ $_[1] } };
    is $then->{dict}{allocations}, 1, "$pid: what it did when it began is its own";
    is $did->('dict', 'allocations'), $adds{$pid} // 0, "$pid: allocations";
    is $did->('dict', 'frees'), $deletes{$pid} // 0, "$pid: frees";
    is $did->('req', 'allocations'), $adds{$pid} // 0, "$pid: in the other zone";
    # Beside the value an entry has its key, a node and the lengths. (Some worker may serve nobody.)
    my ($entries, $values) = map { $_->{$pid} // 0 } \(%adds, %bytes);
    my $beside = $did->('dict', 'bytes_requested') - $values;
    ok $beside >= 50 * $entries && $beside <= 100 * $entries, "$pid: bytes, and $beside beside the values";
}
my ($master) = process_with($after, kind => 'master');
cmp_ok $master->{zones}{dict}{allocations}, '>=', 2, 'the master made the dictionary and an entry';
for my $zone (qw(dict req)) {
    is all_did($after, $zone, qw(allocations failures)), all_reqs($after, $zone), "$zone: adds up";
    agrees(($t->workers)[0], $after->{shared_zones}{$zone}, "$zone: pages and slots");
}

=== TEST 5: a gigabyte, hardly used and touched in full
--- main_config
worker_processes 2;
--- http_config
lua_shared_dict dict 1024m;
--- config
location /memstat { memstat; }
LUA
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
# The program that reads it touches all descriptors, on behalf of the worker.
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

# Without being asked, the figures come a piece with each answer.
$t->reload;
get($t, '/read?key=k&to=' . ($count - 1)) for 1 .. 10;
($worker) = $t->workers;
my $touched = $t->wait_for('the figures', sub {
    my $found = process_of($t->fresh, $worker)->{zones}{dict}{touched};
    return defined $found && abs($found - mapping_rss($worker, $size)) <= 64 * PAGE && $found;
});
cmp_ok $touched, '>', MB, 'a new worker has touched what it has read';

=== TEST 6: a reload changes one zone and drops another
--- http_config
lua_shared_dict dict 1m;
lua_shared_dict gone 1040k;
lua_shared_dict kept 1056k;
--- config
location /memstat { memstat; }
location /old {
    content_by_lua_block {
        for i = 1, 20 do
            assert(ngx.shared.dict:safe_set(i, string.rep("x", 8000)))
            assert(ngx.shared.gone:safe_set(i, string.rep("x", 12000)))
        end
        ngx.say(ngx.worker.pid())
    }
}
LUA
--- perl
my ($old) = $t->workers;
get($t, '/old');
my $before = $t->fresh->{shared_zones};
my $held = $t->connect->send(GET => '/hold');
$held->begin;
$t->reload(http_config => 'lua_shared_dict dict 2m; lua_shared_dict kept 1056k; lua_shared_dict more 3m;');
my ($new) = $t->workers;
my $reply = $t->fresh('/memstat?refresh=zones');
my $zones = $reply->{shared_zones};
is $reply->{answered_by}{pid}, $new, 'the new worker answers';
my $of = sub { my ($zone) = @_; [ map { ref ? !!1 == $_ : $_ } @$zone{qw(generation size)}, $zone->{current} ? 1 : 0 ] };
is_deeply $of->($zones->{dict}), [ 2, 2 * MB, 1 ], 'dict: the new mapping';
is_deeply [ map { $of->($_) } @{ $zones->{dict}{older} } ], [ [ 1, MB, 0 ] ], 'dict: the old mapping';
is_deeply $of->($zones->{gone}), [ 1, 1040 * KB, 0 ], 'gone: only the old worker has it';
is_deeply $of->($zones->{kept}), [ 1, 1056 * KB, 1 ], 'kept: it is the mapping of before';
is_deeply $of->($zones->{more}), [ 2, 3 * MB, 1 ], 'more: new';
agrees($old, $zones->{dict}{older}[0], 'dict: the old one is read by the old worker');
agrees($old, $zones->{gone}, 'gone: too');
agrees($new, $zones->{$_}, "$_: by the new worker") for qw(dict kept more);
is $zones->{gone}{resident}, $before->{gone}{resident}, 'gone: still in RAM';
cmp_ok $zones->{gone}{resident}, '>=', 20 * 12000, 'gone: all that was put there';
my $all = sum(map { $_->{resident}, map { $_->{resident} } @{ $_->{older} } } values %$zones);
is $reply->{totals}{shared_memory}, $all, 'each mapping counts once';
my ($theirs, $ours) = map { process_of($reply, $_)->{zones} } $old, $new;
is $theirs->{dict}{mapped}, MB, 'the old worker has the old one';
is $ours->{dict}{mapped}, 2 * MB, 'the new worker has the new one';
is $theirs->{gone}{allocations}, 20, 'what the old worker did is still told';
ok !exists $ours->{gone}, 'what it has not mapped is not the new worker\'s';
is $ours->{dict}{allocations}, 0, 'the new worker begins with nothing';
my $text = $t->get('/memstat?format=text&fields=shared_zones')->{body};
like $text, qr/^gone +1 old /m, 'old mappings are marked in the table';
like $t->get('/memstat?format=text')->{body}, qr/^gone \(old\) /m, 'and on the screen';

open my $release, '>', $t->root . '/html/release' or die;
close $release;
$t->old_gone;
$zones = $t->fresh->{shared_zones};
is_deeply $zones->{dict}{older}, [], 'dict: the old mapping is gone';
ok !exists $zones->{gone}, 'gone: gone';
is $zones->{kept}{generation}, 1, 'kept: is kept';

=== TEST 7: one zone
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

=== TEST 8: names of any bytes
--- config
location /memstat { memstat; }
--- perl
# The first one has the name that nginx gives the mapping of its counters.
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

=== TEST 9: what does not look like a slab pool is not read as one
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

=== TEST 10: without the hooks
--- main_config
memstat_hooks thread;
--- http_config
lua_shared_dict dict 1m;
--- config
location /memstat { memstat; }
LUA
--- perl
fill($t, 'k', 3000, 1, 50);
my ($worker) = $t->workers;
my $reply = $t->fresh;
my $zone = $reply->{shared_zones}{dict};
my $process = process_of($reply, $worker);
like $process->{hooks}{slab}, qr/^off: not among memstat_hooks/, 'the hook is off';
agrees($worker, $zone, 'the zone itself is read all the same');
is $zone->{$_}, undef, "$_ is not known" for qw(failures generation);
like "@{ $zone->{notes} }", qr/failures.*the slab hook/, 'why';
is $process->{zones}{dict}{$_}, undef, "$_ is not known" for qw(allocations frees failures bytes_requested);
like "@{ $process->{notes} }", qr/without the slab hook/, 'why';
is $process->{zones}{dict}{mapped}, MB, 'mapped is known';
cmp_ok $process->{zones}{dict}{touched}, '>=', 50 * PAGE, 'touched too';
ok exists $reply->{shared_zones}{nginx_shared_zone}, 'the counters of nginx are found';
ok !exists $reply->{shared_zones}{memstat_counters}, 'there are none of our own';

# Old and new mappings look the same: the total is not known as long as both may be there.
my $held = $t->connect->send(GET => '/hold');
$held->begin;
$t->reload;
$reply = $t->fresh;
is $reply->{totals}{shared_memory}, undef, 'the total is not known';
like "@{ process_of($reply, $reply->{answered_by}{pid})->{notes} }",
    qr/totals.shared_memory: without the slab hook .* process $worker /, 'why';
open my $release, '>', $t->root . '/html/release' or die;
close $release;
$t->old_gone;
isnt $t->fresh->{totals}{shared_memory}, undef, 'it is known again';

# On by a reload: what is older than the hook says so, what is new is counted.
my $on = "memstat_hooks on;\n";
$t->reload(main_config => $on, http_config => 'lua_shared_dict dict 1m; lua_shared_dict more 2m;')->old_gone;
my $zones = $t->fresh->{shared_zones};
is $zones->{dict}{generation}, undef, 'dict is older than the hook';
is $zones->{more}{generation}, 3, 'more is not';
is $zones->{dict}{failures}, 0, 'failures are counted from now on';
fill($t, 'm', 3000, 1, 10);
($worker) = $t->workers;
is process_of($t->fresh, $worker)->{zones}{dict}{allocations}, 10, 'so are allocations';

# And off again.
$t->reload(main_config => "memstat_hooks off;\n")->old_gone;
($worker) = $t->workers;
fill($t, 'n', 3000, 1, 10);
is process_of($t->fresh, $worker)->{zones}{dict}{allocations}, undef, 'nothing is counted any more';

=== TEST 11: a few hundred zones
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
--- perl
my $zones = join '', map { "limit_req_zone \$uri zone=a_name_that_is_somewhat_longer_$_:32k rate=1r/s;\n" } 1 .. 600;
$t->reload(http_config => $zones);
my $reply = $t->fresh;
is scalar(grep { /^a_name/ } keys %{ $reply->{shared_zones} }), 600, 'all are there';
my @known = grep { defined $_->{pages} } values %{ $reply->{shared_zones} };
cmp_ok scalar(@known), '>=', 600, 'and read';
for my $process (active_workers($reply)) {
    cmp_ok scalar(keys %{ $process->{zones} }), '>', 50, 'each worker tells of many';
    like "@{ $process->{notes} }", qr/zones: \d+ of 60\d are here/, 'and of how many it does not';
}
isnt $reply->{totals}{shared_memory}, undef, 'the total is known';

=== TEST 12: the only process
--- main_config
master_process off;
--- http_config
lua_shared_dict dict 1m;
--- config
location /memstat { memstat; }
LUA
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

=== TEST 13: what a process has touched of all zones is its nginx_shm
--- main_config
worker_processes 2;
--- http_config
lua_shared_dict dict 8m;
limit_req_zone $remote_addr zone=req:1m rate=100r/s;
--- config
location /memstat { memstat; }
location /req { limit_req zone=req burst=100; empty_gif; }
LUA
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
    # The answer took longer than the counting for it.
    is_deeply [ grep { !defined || $_ > $reply->{elapsed_us} / 1000 + 1 } map { $_->{touched_ms_ago} } values %{ $process->{zones} } ],
        [], "$process->{pid}: counted for this answer";
}
is $reply->{totals}{shared_memory}, sum(map { $_->{resident} } values %{ $reply->{shared_zones} }), 'the total';

=== TEST 14: a reload that fails leaves all as it was
--- http_config
lua_shared_dict dict 1m;
--- config
location /memstat { memstat; }
LUA
--- error_log
mmap\(.*\) failed
--- perl
fill($t, 'k', 3000, 1, 20);
my ($worker) = $t->workers;
my $before = $t->fresh->{shared_zones};
# The first of them is made, the other cannot be.
$t->write_conf(http_config => "lua_shared_dict dict 2m;\nlua_shared_dict huge 100000000m;");
$t->signal('HUP');
$t->wait_for('the refusal', sub { $t->error_log =~ /\[alert\].*mmap/ });
fill($t, 'l', 3000, 1, 20);
my $reply = $t->fresh;
is_deeply [ sort keys %{ $reply->{shared_zones} } ], [ sort keys %$before ], 'the same zones';
is $reply->{shared_zones}{dict}{generation}, 1, 'of the same generation';
is process_of($reply, $worker)->{zones}{dict}{allocations}, 40, 'still counted';
is all_did($reply, 'dict', qw(allocations failures)), all_reqs($reply, 'dict'), 'adds up';
$t->reload(http_config => "lua_shared_dict dict 2m;")->old_gone;
$reply = $t->fresh;
is $reply->{shared_zones}{dict}{generation}, 2, 'the next one goes through';
is all_did($reply, 'dict', qw(allocations failures)), all_reqs($reply, 'dict'), 'adds up in the new zone';

=== TEST 15: a worker that is killed takes its own counts with it, not those of the zone
--- http_config
lua_shared_dict dict 1m;
--- config
location /memstat { memstat; }
LUA
--- error_log
exited on signal 9
--- perl
is set($t, 'k', 2000000), 'no memory', 'a failure';
fill($t, 'k', 3000, 1, 20);
my ($killed) = $t->workers;
my $before = $t->fresh->{shared_zones}{dict};
$t->signal('KILL', $killed);
my $worker = $t->successor_of($killed);
my $reply = $t->fresh;
is process_of($reply, $worker)->{zones}{dict}{$_}, 0, "$_: it begins anew" for qw(allocations failures);
is_deeply $reply->{shared_zones}{dict}{pages}, $before->{pages}, 'the zone has its figures';
is $reply->{shared_zones}{dict}{failures}, 1, 'the failure is not forgotten';
fill($t, 'l', 3000, 1, 7);
is process_of($t->fresh, $worker)->{zones}{dict}{allocations}, 7, 'it counts for itself';

=== TEST 16: a zone of limit_req that runs over, in two workers
--- main_config
worker_processes 2;
--- http_config
limit_req_zone $arg_key zone=req:32k rate=1000r/s;
--- config
location /memstat { memstat; }
location /busy { limit_req zone=req burst=1000 nodelay; empty_gif; add_header X-Pid $pid; }
--- perl
my %served;
my $before = $t->fresh;
is $before->{shared_zones}{req}{failures}, 0, 'no failure yet';
# Of the same length: when there is no memory, the oldest node makes room for the new one.
for my $key (1001 .. 1500) {
    my $answer = $t->get("/busy?key=$key");
    is $answer->{status}, 200, 'served' if $answer->{status} != 200;
    $served{ $answer->{headers}{'x-pid'} }++;
}
my $reply = $t->fresh;
my $zone = $reply->{shared_zones}{req};
agrees(($t->workers)[0], $zone, 'pages and slots');
is $zone->{pages}{free}, 0, 'no page is free';
cmp_ok $zone->{failures}, '>', 0, 'there was no memory now and then';
is $zone->{failures}, all_did($reply, 'req', 'failures'), 'which was somebody\'s failure';
is all_did($reply, 'req', qw(allocations failures)), all_reqs($reply, 'req'), 'adds up';
my $live = sum(map { $_->{used} } values %{ $zone->{slots} });
is all_did($reply, 'req', 'allocations') - all_did($reply, 'req', 'frees'), $live, 'what was not freed is there';
for my $pid ($t->workers) {
    is process_of($reply, $pid)->{zones}{req}{allocations}, $served{$pid} // 0, "$pid: one for each request";
}
cmp_ok $zone->{largest_allocation}, '<', PAGE, 'no page can be had';
