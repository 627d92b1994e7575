# Pools: each figure agrees with the actions of a test, or with a walk from outside.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;
use Test::Memstat::Build qw(program);
use Test::Memstat::Pools;

# Returns the size of a process's pool as a separate program reads it: see t/tools/pool.c.
sub walk {
    my ($pid, @where) = @_;
    my @command = (program('pool'), $pid, @where);
    open my $out, '-|', @command or die "cannot run @command: $!\n";
    my %found = map { /^(\S+) (\d+)$/ ? ($1 => $2) : () } <$out>;
    close $out or die "@command failed\n";
    return \%found;
}

# Returns the same for the pool of a process's cycle.
sub walk_cycle {
    my ($pid) = @_;
    my ($path) = readlink "/proc/$pid/exe";
    my ($offset) = `nm -D '$path'` =~ /^(\w+) \w ngx_cycle\b/m or die "no ngx_cycle in $path\n";
    my ($map) = grep { $_->{path} eq $path } maps($pid);
    return walk($pid, 'cycle', sprintf '%x', $map->{from} + hex $offset);
}

run_tests();

__DATA__

=== TEST 1: 500 idle connections
--- main_config
worker_processes 2;
events { worker_connections 1024; }
--- http_config
connection_pool_size 768;
keepalive_timeout 60s;
--- config
location /memstat { memstat; }
location /empty { return 204; }
--- perl
my %kind = (kind => 'connection');
my $before = pools_of($t->fresh);
is of_creators($before, 'live', %kind), 1, 'the asking one';
my @clients = map { $t->connect->send(GET => '/empty') } 1 .. 500;
$_->receive for @clients;
my $during = pools_of($t->fresh);
is of_creators($during, 'live', %kind), 501, 'and 500';
is of_creators($during, 'bytes', %kind), 501 * 768, 'each with its block';
is of_creators($during, 'large_count', %kind), 1, 'only the asking one has its buffer';
is of_creators($during, 'live', kind => 'request'), 1, 'requests are gone';
is of_creators($during, 'destroyed', kind => 'request') - of_creators($before, 'destroyed', kind => 'request'),
    501, 'as many as there were';
my ($creator) = grep { $_->{kind} eq 'connection' } map { @{ $_->{by_creator} } } values %$during;
is $creator->{creator}, 'ngx_event_accept', 'their creator';
is $creator->{object}, 'nginx', 'and where it is';
my @listed = grep { $_->{kind} eq 'connection' } map { @{ $_->{oldest} } } values %$during;
is_deeply { map { $_->{server_name} => 1 } @listed }, { localhost => 1 }, 'their server';
$_->close for @clients;
$t->wait_for('the connections are closed', sub {
    of_creators(pools_of($t->fresh), 'live', %kind) == 1;
});
my $after = pools_of($t->fresh);
is of_creators($after, 'bytes', %kind), of_creators($before, 'bytes', %kind), 'as before';
cmp_ok of_creators($after, 'destroyed', %kind) - of_creators($before, 'destroyed', %kind), '>=', 501,
    'and counted';

=== TEST 2: requests that wait for their upstream
--- main_config
worker_processes 2;
--- config
memstat_uri on;
location /memstat { memstat; memstat_uri off; }
location /uri { memstat; }
location /slow { proxy_pass http://127.0.0.1:$TEST_NGINX_PORT_1; }
--- perl
my $upstream = silent_server($t->port(1));
my @clients = map { $t->connect->send(GET => "/slow?secret=$_") } 1 .. 20;
my @held = map { scalar $upstream->accept } @clients;
my $aged = sub { my ($reply) = @_;
    return grep { $_->{kind} eq 'request' && $_->{age_s} > 0 } map { @{ $_->{pools}{oldest} // [] } } @{ $reply->{processes} } };
my $reply = $t->wait_for('they are a second old', sub { my $reply = $t->fresh; $aged->($reply) ? $reply : undef });
my $pools = pools_of($reply);
is of_creators($pools, 'live', kind => 'request'), 21, 'twenty and the asking one';
is of_creators($pools, 'live', kind => 'upstream'), 20, 'each with a connection to its upstream';
my @oldest = $aged->($reply);
# An nginx that is not stripped has the name of the static function.
like $_->{creator}, qr/^ngx_http_(?:create|alloc)_request$/, 'by their creator' for @oldest;
is_deeply { map { $_->{server_name} => 1 } @oldest }, { localhost => 1 }, 'and their server';
is_deeply [ grep { defined $_->{request} } map { @{ $_->{oldest} }, @{ $_->{largest} } } values %$pools ],
    [], 'request lines are left out';
unlike $t->get('/memstat')->{body}, qr/secret/, 'anywhere';

my $uris = pools_of($t->fresh('/uri'));
my @lines = map { $_->{request} // () } map { @{ $_->{oldest} } } values %$uris;
my @secrets = grep { m{^GET /slow\?secret=\d+ HTTP/1\.1$} } @lines;
cmp_ok scalar(@secrets), '>=', 1, 'unless that is wanted' or diag "@lines";

my $age = sub { (sort { $b <=> $a } map { $_->{age_s} } @{ $_[0] })[0] };
my $first = $age->(\@oldest);
$t->wait_for('they grow older', sub { $age->([ $aged->($t->fresh) ]) > $first });

for my $socket (@held) {
    $socket->syswrite("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    $socket->close;
}
is $_->receive->{body}, 'ok', 'answered' for @clients[ 0, 19 ];
$_->receive for @clients[ 1 .. 18 ];
$t->wait_for('the requests are gone', sub {
    of_creators(pools_of($t->fresh), 'live', kind => 'request') == 1;
});
is of_creators(pools_of($t->fresh), 'live', kind => 'upstream'), 0, 'and their upstreams';

=== TEST 3: blocks and large allocations, against the pool's own headers and malloc's
--- main_config
load_module $TEST_NGINX_BUILT_ngx_http_pool_test_module;
worker_processes 1;
--- http_config
request_pool_size 32k;
--- config
location /memstat { memstat; }
location /blocks { pool_test_hold 100000 0 0; }
location /large { pool_test_hold 500 300000 7; }
location /odd { pool_test_hold 12345 5003 100; }
--- perl
my ($worker) = $t->workers;
for my $path (qw(/blocks /large /odd)) {
    my $client = $t->connect->send(GET => $path);
    my $before = length $t->error_log;
    my ($address) = $t->wait_for('the request is held', sub {
        $t->error_log =~ /pool_test holds 0*([0-9A-F]+).*?"GET \Q$path\E/;
    }) && $t->error_log =~ /pool_test holds 0*([0-9A-F]+).*?"GET \Q$path\E/;
    my $walked = walk($worker, $address);
    my $pools = pools_of($t->fresh)->{$worker};
    my ($largest) = grep { $_->{kind} eq 'request' } @{ $pools->{largest} };
    is $largest->{bytes}, $walked->{bytes}, "$path: blocks";
    is $largest->{large_bytes}, $walked->{large_bytes}, "$path: large allocations";
    my ($creator) = grep { $_->{kind} eq 'request' } @{ $pools->{by_creator} };
    is $creator->{live}, 2, "$path: it and the asking one";
    cmp_ok $creator->{bytes} - $walked->{bytes}, '>=', 32768, "$path: the creator has both";
    is $creator->{large_count} - $walked->{large_count}, 0, "$path: and the large ones of one";
    cmp_ok $creator->{peak_bytes}, '>=', $walked->{bytes} + $walked->{large_bytes}, "$path: the largest yet";
    near $creator->{unused} - $walked->{unused}, $creator->{bytes} - $walked->{bytes}, 32768,
        "$path: unused";
    $client->close;
    # The handler never answers: nginx keeps the request until the worker exits.
    $t->reload;
    ($worker) = $t->workers;
}
--- error_log
open socket #\d+ left in connection
aborting

=== TEST 4: created is live and destroyed, at every moment
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
location /file { root $TEST_NGINX_SERVER_ROOT/html; }
--- user_files
>>> file
content
--- perl
my $loader = fork // die "cannot fork: $!\n";
if (!$loader) {
    $SIG{TERM} = sub { POSIX::_exit(0) };
    while (1) {
        my $client = $t->connect;
        $client->send(GET => '/file')->receive for 1 .. 20;
        $client->close;
    }
}
my $last = 0;
for (1 .. 40) {
    my $pools = pools_of($t->fresh);
    my $created = of_creators($pools, 'created', kind => 'request');
    cmp_ok $created, '>=', $last, 'it goes on';
    $last = $created;
}
kill TERM => $loader;
waitpid $loader, 0;
cmp_ok $last, '>', 500, 'there was load';

=== TEST 5: two thousand servers
--- main_config
worker_processes 1;
--- config
location /memstat { memstat; }
--- perl
$t->reload(http_config => join "\n", map {
    "server { listen 127.0.0.1:\$TEST_NGINX_PORT_1; server_name s$_.example www.s$_.example; location / { root /srv/$_; } }"
} 1 .. 2000);
my ($worker) = $t->workers;
my $pools = pools_of($t->fresh)->{$worker};
my ($cycle) = @{ $pools->{cycles} };
my $walked = walk_cycle($worker);
cmp_ok $walked->{bytes} + $walked->{large_bytes}, '>', 2000 * 2000, 'a large cycle';
is $cycle->{bytes}, $walked->{bytes}, 'its blocks';
is $cycle->{large_bytes}, $walked->{large_bytes}, 'its large allocations';
my ($creator) = grep { $_->{kind} eq 'cycle' } @{ $pools->{by_creator} };
is $creator->{unused}, $walked->{unused}, 'what is unused';
is $creator->{large_count}, $walked->{large_count}, 'the number of large ones';
is_deeply $pools->{largest}[0], $cycle, 'it is the largest';

=== TEST 6: the cycles of two generations
--- main_config
worker_processes 1;
--- config
location /memstat { memstat; }
location /slow { proxy_pass http://127.0.0.1:$TEST_NGINX_PORT_1; }
--- perl
my $upstream = silent_server($t->port(1));
my ($old) = $t->workers;
my ($first) = @{ pools_of($t->fresh)->{$old}{cycles} };
is_deeply [ @$first{qw(creator kind generation)} ], [ 'ngx_init_cycle', 'cycle', 1 ], 'the first cycle';
my $client = $t->connect->send(GET => '/slow');
my $held = scalar $upstream->accept;
$t->reload(http_config => join "\n", map {
    "server { listen 127.0.0.1:\$TEST_NGINX_PORT_2; server_name s$_.example; }"
} 1 .. 100);
my ($new) = $t->workers;
my $pools = pools_of($t->fresh);
is_deeply $pools->{$old}{cycles}[0], { %$first, age_s => $pools->{$old}{cycles}[0]{age_s} },
    'the old worker has its own still';
my ($second) = @{ $pools->{$new}{cycles} };
is $second->{generation}, 2, 'the new one has the second';
is scalar @{ $pools->{$new}{cycles} }, 1, 'and no other';
my $walked = walk_cycle($new);
is $second->{bytes} + $second->{large_bytes}, $walked->{bytes} + $walked->{large_bytes}, 'as large as it is';
my ($creator) = grep { $_->{kind} eq 'cycle' } @{ $pools->{$new}{by_creator} };
is_deeply [ @$creator{qw(live created destroyed)} ], [ 1, 2, 1 ], 'the first one ended in the master';
my %conf = (kind => 'conf', creator => 'ngx_init_cycle');
is of_creators({ new => $pools->{$new} }, 'live', %conf), 0, 'and so did what reads configurations';
cmp_ok of_creators({ new => $pools->{$new} }, 'created', %conf), '>=', 1, 'which was seen';
$held->close;
$client->close;

=== TEST 7: without the hooks
--- main_config
worker_processes 1;
memstat_hooks lua thread;
--- config
location /memstat { memstat; }
--- perl
my ($worker) = $t->workers;
my $process = process_of($t->memstat, $worker);
is $process->{pools}, undef, 'no pools';
is $process->{allocator}{pools}, undef, 'nor how much of the heap they are';
is $process->{hooks}{pool}, 'off: not among memstat_hooks', 'why';
is scalar(grep { $_ eq 'pools, allocator.pools, peak.pools: not among memstat_hooks' } @{ $process->{notes} }), 1, 'and again';
my $patched = sub {
    return sum(map { $_->{size} / page_size() } grep { $_->{rights} =~ /x/ && $_->{path} eq '' } maps($_[0]));
};
is $patched->($worker), 0, 'no code of ours';

$t->reload(main_config => 'worker_processes 1;');
($worker) = $t->workers;
is $patched->($worker), 3, 'after a reload with them a page of it, one for what is given back, one for zones';
is scalar(grep { $_->{rights} =~ /wx/ } maps($worker)), 0, 'which nobody can write to';
my $pools = pools_of($t->fresh)->{$worker};
is scalar @{ $pools->{cycles} }, 1, 'and pools';

$t->reload(main_config => 'worker_processes 1; memstat_hooks off;');
($worker) = $t->workers;
is process_of($t->fresh, $worker)->{pools}, undef, 'and without them none';
$t->get('/memstat') for 1 .. 3;

$t->reload(main_config => 'worker_processes 1;');
($worker) = $t->workers;
is scalar @{ pools_of($t->fresh)->{$worker}{cycles} }, 1, 'and again';
is $patched->($worker), 3, 'in the same pages';
--- no_error_log
no hook on

=== TEST 8: one process
--- main_config
master_process off;
--- config
location /memstat { memstat; }
location /empty { return 204; }
--- perl
my $pools = pools_of($t->fresh);
is_deeply [ map { $_->{cycles}[0]{generation} } values %$pools ], [1], 'its cycle';
$t->get('/empty') for 1 .. 5;
is of_creators(pools_of($t->fresh), 'created', kind => 'request')
    - of_creators($pools, 'created', kind => 'request'), 6, 'its requests';
