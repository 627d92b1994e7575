# The peak sizes of pools.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

# Returns the creators of pools of a kind.
sub creators {
    my ($t, $kind) = @_;
    my @pools = grep { $_ } map { $_->{pools} } @{ $t->fresh->{processes} };
    return grep { $_->{kind} eq $kind } map { @{ $_->{by_creator} } } @pools;
}

# Returns the size of the largest pool of a kind so far.
sub peak {
    my ($t, $kind) = @_;
    return (sort { $b <=> $a } map { $_->{peak_bytes} } creators($t, $kind))[0];
}

# The worst moment of a process.
sub worst_of { my ($t, $pid) = @_; return process_of($t->fresh, $pid)->{peak} }

# How often a process has gone to sleep.
sub sleeps { my ($pid) = @_; my %status = proc_status($pid); return $status{voluntary_ctxt_switches} }

# Holds a request with a large body on /held for as long as a look takes, and ends it: nobody asks
# meanwhile. A worker that is idle sleeps once a second only, but for a look.
sub hold_and_end {
    my ($t, $worker, $bytes) = @_;
    my $upstream = silent_server($t->port(1));
    $upstream->timeout(20);
    my $client = $t->connect->send(POST => 'http://a.example/held?secret', body => 'x' x $bytes);
    my $held = $upstream->accept // die "nobody came: $!\n";
    my $before = sleeps($worker) + 3;
    $t->wait_for('it has looked', sub { sleeps($worker) > $before });
    $held->syswrite("HTTP/1.0 200 OK\r\n\r\n");
    $held->shutdown(1);
    $client->receive;
    return;
}

run_tests();

__DATA__

=== TEST 1: large allocations that are freed before the pool is destroyed
--- main_config
load_module $TEST_NGINX_BUILT_ngx_http_pool_test_module;
worker_processes 1;
--- config
location /memstat { memstat; }
location /few { pool_test_give_back 5000 60000 3; }
location /many { pool_test_give_back 20000 50000 200; }
location /small { pool_test_give_back 100 9000 1; }
--- perl
# The peak of an answer of the module itself.
my $last = peak($t, 'request');
for my $path (qw(/small /few /small /many /few)) {
    is $t->get($path)->{status}, 204, "$path answers";
    my ($had) = $t->error_log =~ /.*pool_test has (\d+)/s;
    $last = $had if $had > $last;
    is peak($t, 'request'), $last, "$path: what the largest had, to the byte, though nobody looked";
}
cmp_ok $last, '>', 200 * 50000, 'all of them';
my ($creator) = creators($t, 'request');
is scalar(grep { $_ > 65536 } keys %{ $creator->{sizes} }), 0, 'at their end they were small';

=== TEST 2: the pool of a connection that is kept
--- main_config
worker_processes 1;
--- http_config
client_header_buffer_size 1k;
large_client_header_buffers 4 64k;
--- config
location /memstat { memstat; }
location /empty { return 204; }
--- perl
my $client = $t->connect;
$client->send(GET => '/empty')->receive for 1 .. 5;
my $before = peak($t, 'connection');
cmp_ok $before, '<', 65536, 'as it is with small headers';
my $header = 'X-Long: ' . 'x' x 50_000;
$client->send(GET => '/empty', headers => [$header])->receive;
$client->send(GET => '/empty')->receive for 1 .. 5;
cmp_ok peak($t, 'connection'), '>=', 65536, 'with a buffer that was given back';
cmp_ok peak($t, 'connection'), '<', 2 * 65536, 'once';

=== TEST 3: gzip frees memory before the pool is destroyed
--- main_config
worker_processes 1;
--- config
location /memstat { memstat; }
gzip on;
gzip_types *;
location /text { root $TEST_NGINX_SERVER_ROOT/html; }
--- perl
srand 1;
open my $file, '>', $t->root . '/html/text' or die "cannot write: $!\n";
print $file join ' ', map { rand } 1 .. 50_000;
close $file;
my $before = peak($t, 'request');
my $client = $t->connect->send(GET => '/text', headers => ['Accept-Encoding: gzip']);
is $client->receive->{headers}{'content-encoding'}, 'gzip', 'an answer that is packed';
cmp_ok peak($t, 'request'), '>=', $before + 200_000, "zlib's memory is part of the largest, though nobody looked";

=== TEST 4: the worst moment, of which nobody asked
--- main_config
worker_processes 1;
--- http_config
client_max_body_size 32m;
client_body_buffer_size 32m;
server {
    listen 127.0.0.1:$TEST_NGINX_SERVER_PORT;
    server_name a.example alias.example;
    location /held { proxy_pass http://127.0.0.1:$TEST_NGINX_PORT_1; proxy_request_buffering on; }
}
--- config
location /memstat { memstat; }
--- perl
my ($worker) = $t->workers;
my $before = worst_of($t, $worker);
cmp_ok $before->{resident}, '<', 24 << 20, 'a small process';
is $before->{pools}{by_creator}[0]{kind}, 'cycle', 'whose configuration is largest';
cmp_ok $before->{pools}{live}, '>', 2, 'its pools are there';

hold_and_end($t, $worker, 25 << 20);
my $reply = $t->fresh;
my $process = process_of($reply, $worker);
my $peak = $process->{peak};
cmp_ok $process->{system}{resident}, '<', 24 << 20, 'it is over';
cmp_ok $process->{pools}{bytes} + $process->{pools}{large_bytes}, '<', 12 << 20, 'and so are the pools';
cmp_ok $peak->{resident}, '>', 24 << 20, 'the worst moment had it';
my $above = $process->{system}{peak_resident} - $peak->{resident};
is $peak->{unseen}, $above > 0 ? $above : 0, "what the kernel's peak has above it, which it takes now and then only";
cmp_ok $peak->{unseen}, '<', 4 << 20, 'is little: the moment lasted';
cmp_ok $peak->{at}, 'gt', $before->{at}, 'later than before';
cmp_ok $peak->{at}, 'lt', $reply->{time}, 'and not now';
my $creator = $peak->{pools}{by_creator}[0];
is $creator->{kind}, 'request', 'its largest creator is that of requests';
cmp_ok $creator->{bytes} + $creator->{large_bytes}, '>', 24 << 20, 'with the body';
is $creator->{live}, 1, 'of one request';
cmp_ok scalar @{ $peak->{pools}{by_creator} }, '<=', 5, 'five creators at most';
is $peak->{pools}{server}{name}, 'a.example', 'the server that held most';
cmp_ok $peak->{pools}{server}{large_bytes}, '>', 24 << 20, 'with the body';
is $peak->{pools}{request}{server_name}, 'a.example', 'the request that held most is of that server';
is $peak->{pools}{request}{request}, undef, 'its line is left out without memstat_uri';
unlike $t->get("/memstat?format=$_")->{body}, qr/secret/, "nor in $_" for qw(json text html prometheus);

like $t->get('/memstat?format=text')->{body}, qr/^worst moment: .*server\s+a\.example/ms, 'as text';
like $t->get('/memstat?format=text&fields=processes.peak')->{body}, qr/^Worst moments.*\Q$peak->{at}/ms, 'and in full';
like $t->get('/memstat?format=html')->{body}, qr/Worst moment<.*\Q$peak->{at}\E.*a\.example/s, 'as a page';
my $prometheus = $t->get('/memstat?format=prometheus')->{body};
like $prometheus, qr/^nginx_memstat_process_peak_seen_bytes\{[^}]*worker="0"[^}]*\} $peak->{resident}$/m, 'as a metric';
like $prometheus, qr/^nginx_memstat_process_peak_seen_timestamp_seconds\{[^}]*worker="0"/m, 'with its time';

$t->get('/memstat') for 1 .. 20;
is_deeply worst_of($t, $worker), $peak, 'it stays';
$t->reload;
$t->wait_for('the old worker is gone', sub { children($t->master) == 1 });
my ($new) = $t->workers;
cmp_ok worst_of($t, $new)->{resident}, '<', 24 << 20, 'a new worker starts afresh';

=== TEST 5: the worst moment with memstat_uri
--- main_config
worker_processes 1;
--- http_config
client_max_body_size 32m;
client_body_buffer_size 32m;
server {
    listen 127.0.0.1:$TEST_NGINX_SERVER_PORT;
    server_name a.example;
    location /held { proxy_pass http://127.0.0.1:$TEST_NGINX_PORT_1; proxy_request_buffering on; }
}
--- config
location /memstat { memstat; memstat_uri on; }
location /without { memstat; }
--- perl
my ($worker) = $t->workers;
hold_and_end($t, $worker, 25 << 20);
my $peak = worst_of($t, $worker);
is $peak->{pools}{request}{request}, 'POST http://a.example/held?secret HTTP/1.1', 'the line of the request that held most';
cmp_ok $peak->{pools}{request}{large_bytes}, '>', 24 << 20, 'and what it held';
is $t->decode($t->get('/without')->{body})->{processes}[1]{peak}{pools}{request}{request}, undef, 'not where it is off';
unlike $t->get('/without?format=text&fields=processes.peak')->{body}, qr/secret/, 'nor as text';
like $t->get('/memstat?format=text&fields=processes.peak')->{body}, qr/secret/, 'which tells it where it is on';

=== TEST 6: the worst moment without hooks on pools
--- main_config
worker_processes 1;
--- http_config
memstat_hooks slab master;
client_max_body_size 32m;
client_body_buffer_size 32m;
--- config
location /memstat { memstat; }
location /held { proxy_pass http://127.0.0.1:$TEST_NGINX_PORT_1; proxy_request_buffering on; }
--- perl
my ($worker) = $t->workers;
hold_and_end($t, $worker, 25 << 20);
my $process = process_of($t->fresh, $worker);
cmp_ok $process->{peak}{resident}, '>', 24 << 20, 'is known';
is $process->{peak}{pools}, undef, 'its pools are not';
like join("\n", @{ $process->{notes} }), qr/^pools, .*peak\.pools: not among memstat_hooks$/m, 'a note says why';

=== TEST 7: the worst moment of the master is a reload
--- http_config
map_hash_max_size 65536;
map $arg_a $b { include $TEST_NGINX_SERVER_ROOT/html/map; }
--- user_files
>>> map
key value;
--- config
location /memstat { memstat; }
--- perl
my $before = worst_of($t, $t->master);
my @cycles = grep { $_->{kind} eq 'cycle' } @{ $before->{pools}{by_creator} };
is $cycles[0]{live}, 1, 'one configuration';
open my $map, '>', $t->root . '/html/map' or die "cannot write: $!\n";
print $map "key$_ value$_;\n" for 1 .. 30_000;
close $map;
$t->reload for 1 .. 2;
my $peak = $t->wait_for('a worse moment', sub {
    my $peak = worst_of($t, $t->master);
    my ($cycles) = grep { $_->{kind} eq 'cycle' } @{ $peak->{pools}{by_creator} };
    return $cycles->{live} == 2 ? $peak : undef;
});
is((grep { $_->{kind} eq 'cycle' } @{ process_of($t->fresh, $t->master)->{pools}{by_creator} })[0]{live}, 1,
    'at the worst moment there were two configurations, of which one is left');
cmp_ok $peak->{resident}, '>', $before->{resident} + (2 << 20), 'which is much more than one';
