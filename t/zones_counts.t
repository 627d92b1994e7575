# Shared memory zones: the sums of what each process did to them, including failures.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;
use Test::Memstat::Dict;
use Test::Memstat::Zone;

use constant { KB => 1024, MB => 1048576, PAGE => page_size() };

run_tests();

__DATA__

=== TEST 1: failures, in the process that had them
--- main_config
worker_processes 2;
--- http_config
lua_shared_dict dict 1m;
lua_shared_dict other 1m;
--- config
location /memstat { memstat; }
include $TEST_NGINX_TESTS/dict_by_lua.conf;
--- perl
my ($one, $two) = $t->workers;
my $before = $t->fresh;
is $before->{shared_zones}{dict}{failures}, 0, 'none yet';
my %failed = ($one => 0, $two => 0);
# Larger and smaller than half a page: nginx itself counts only the smaller ones.
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

=== TEST 2: traffic from several workers at once
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
    # An entry has its key, a node and the lengths besides the value. (A worker may get no request.)
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

=== TEST 3: a full zone of limit_req, in two workers
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
# Keys of the same length: if there is no memory, the oldest node is removed for the new one.
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
