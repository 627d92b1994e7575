# The commands of the project: what they refuse before anything is built, the comparison of answers, and the
# end of the demo.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

use IO::Socket::INET;
use POSIX ();

use constant TOP => "$FindBin::Bin/..";

# Runs a command in the project's folder. Returns its exit status and all its output.
sub output_of {
    my ($command) = @_;
    my $output = `cd '@{[ TOP ]}' && env -u NGINX_SOURCE_DIR -u NGINX_BUILD_DIR -u MAKEFLAGS -u MAKELEVEL $command 2>&1`;
    return ($? >> 8, $output);
}

# A file with this text; it is removed at the end of the test.
sub file {
    my ($t, $name, $text) = @_;
    my $path = $t->root . "/$name";
    open my $file, '>', $path or die "$path: $!\n";
    print $file $text;
    close $file;
    return $path;
}

run_tests();

__DATA__

=== TEST 1: what is refused before anything is installed or built
--- config
location /memstat { memstat; }
--- perl
my $taken = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 1) or die $!;
my $port  = $taken->sockport;
my $old   = file($t, 'cargo', "#!/bin/sh\necho 'cargo 1.65.0 (4bc8f24d3 2022-10-20)'\n");
chmod 0755, $old;
my @refused = (
    [ "make run PORT=$port",            qr/^demo: 127\.0\.0\.1:$port is in use: choose another port/ ],
    [ 'make case CASE=nope',            qr/^there is no case 'nope': 'make case' lists them/ ],
    [ "make run CARGO='$old'",          qr/^need-rust: \S+ is version 1\.65\.0, which is too old\. Rust \d\S+ or later is needed/ ],
    [ 'make build CARGO=/nowhere/cargo', qr/^need-rust: there is no Rust: \S+ does not run\./ ],
);
for (@refused) {
    my ($command, $sentence) = @$_;
    my ($status, $output) = output_of($command);
    isnt $status, 0, $command;
    like $output, $sentence, "$command: why";
    unlike $output, qr/Compiling|install-packages/, "$command: nothing was begun";
}

=== TEST 2: two saved answers, and what grew between them
--- http_config
lua_shared_dict dict 8m;
--- config
location /memstat { memstat; }
location /fill {
    content_by_lua_block { for i = 1, 2000 do ngx.shared.dict:set(i, string.rep("x", 1000)) end }
}
--- perl
my ($before, $after) = map {
    $t->get('/fill') if $_ eq 'after';
    file($t, "$_.json", $t->expire->get('/memstat?refresh=zones')->{body});
} qw(before after);
my ($status, $output) = output_of("tools/memstat-diff '$before' '$after'");
is $status, 0, 'compared';
my ($grown) = $output =~ /^zone dict +in_use +\S+ \w+ +\S+ \w+ +\+([\d.]+) MiB/m;
my @in_use = map { JSON::PP->new->decode(read_file($_))->{shared_zones}{dict}{in_use} } $before, $after;
near $grown * 1048576, $in_use[1] - $in_use[0], 8192, 'by what the answers say';
cmp_ok $grown, '>', 1.9, 'two megabytes';
like $output, qr/^from \S+ to \S+, [\d.]+ (?:s|min)$/m, 'the time between them';
my @growth = map { my %unit = (KiB => 1, MiB => 1024); $_->[0] * $unit{ $_->[1] } }
    map { [ /\+([\d.]+) (\w+)/ ] } grep { /^(?:zone|worker|master) / } split /\n/, $output;
is_deeply \@growth, [ sort { $b <=> $a } @growth ], 'the largest first';

($status, $output) = output_of("tools/memstat-diff '$before' '$before'");
like $output, qr/^nothing grew by 64 KiB or more$/m, 'nothing grew';
($status, $output) = output_of("tools/memstat-diff '$after' '$before'");
isnt $status, 0, 'the newer one first';
like $output, qr/swap them/, 'what to do';
($status, $output) = output_of("tools/memstat-diff '$before' Makefile");
isnt $status, 0, 'no answer';
like $output, qr/^memstat-diff: Makefile is no JSON answer of \/memstat/, 'why';
($status, $output) = output_of('tools/memstat-diff');
like $output, qr/^usage: memstat-diff \[-a\] OLD\.json NEW\.json$/m, 'usage';

=== TEST 3: the demo stops, also where nobody reaps its master
--- config
location /memstat { memstat; }
--- perl
my $demo = $t->root . '/build/demo';
mkdir $_ or die "$_: $!\n" for $t->root . '/build', $demo, "$demo/logs";
my $stop = "make --no-print-directory stop BUILD='@{[ $t->root ]}/build'";
my $state = sub { return (read_file("/proc/$_[0]/status") // '') =~ /^State:\s+(\w)/m ? $1 : 'gone' };
my $start = sub {
    my ($daemon) = @_;
    file($t, 'build/demo/demo.conf', "daemon $daemon;\nevents {}\npid nginx.pid;\nerror_log logs/error.log;\n");
    my $pid = fork // die $!;
    if (!$pid) {
        chdir $demo;
        { exec Test::Memstat::Server::binary(), '-p', './', '-c', 'demo.conf', '-e', 'logs/error.log' }
        POSIX::_exit(127);
    }
    waitpid $pid, 0 if $daemon eq 'on';
    my $master = $t->wait_for('the pid file', sub { (read_file("$demo/nginx.pid") // '') =~ /^(\d+)\n/ && $1 });
    # A master that nobody reaps is a child of this process.
    die 'the pid is of another process' if $daemon eq 'off' && $master != $pid;
    $t->wait_for('its name', sub { (read_file("/proc/$master/cmdline") // '') =~ /^nginx: master/ });
    return $master;
};

is_deeply [ output_of($stop) ], [ 0, '' ], 'none runs';

my $master = $start->('on');
is_deeply [ output_of($stop) ], [ 0, '' ], 'one that runs as usual';
like $state->($master), qr/^(?:gone|Z)$/, 'is stopped';

$master = $start->('off');
is_deeply [ output_of($stop) ], [ 0, '' ], 'one that becomes a zombie';
is $state->($master), 'Z', 'is stopped';
file($t, 'build/demo/nginx.pid', "$master\n");
is_deeply [ output_of($stop) ], [ 0, '' ], 'a pid file that names the zombie';
waitpid $master, 0;

my ($other) = $t->master;
file($t, 'build/demo/nginx.pid', "$other\n");
is_deeply [ output_of($stop) ], [ 0, '' ], 'a pid file that names another nginx';
unlike $state->($other), qr/^(?:gone|Z)$/, 'which runs on';
