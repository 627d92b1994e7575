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
