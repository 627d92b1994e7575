# The memory of the control group that limits the server, compared with the kernel's files.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

use JSON::PP;
use POSIX ();

use constant MB => 1048576;

# The limit of the group above the servers' one.
use constant LIMIT => 256 * MB;

# The names of the files in each version, without "memory.".
my %FILES = (
    1 => { limit => 'limit_in_bytes', usage => 'usage_in_bytes', kernel => 'kmem.usage_in_bytes' },
    2 => { limit => 'max', usage => 'current' },
);

my ($version, $outer, $inner, $why);

# Makes two groups, one below the other, below the top of the hierarchy that counts memory.
sub make_groups {
    my ($top, $v1) = read_file('/proc/self/mountinfo') =~ m{^\S+ \S+ \S+ / (\S+) [^\n]* - cgroup \S+ \S*\bmemory\b}m
        ? ($1, 1) : read_file('/proc/self/mountinfo') =~ m{^\S+ \S+ \S+ / (\S+) [^\n]* - cgroup2 }m;
    return 'no control groups with memory are mounted' unless defined $top;
    $version = $v1 ? 1 : 2;
    $outer   = "$top/memstat-test-$$";
    $inner   = "$outer/server";
    for my $group ($top, $outer) {
        -d $group or mkdir $group or return "cannot make $group: $!";
        next if $v1 || set("$group/cgroup.subtree_control", '+memory');
        return "cannot count memory below $group: $!";
    }
    mkdir $inner or return "cannot make $inner: $!";
    set(limit_file($outer), LIMIT) or return "cannot limit $outer: $!";
    $ENV{MEMSTAT_GROUP} = $inner;
    return;
}

# Returns whether a file of the kernel's accepted a value.
sub set {
    my ($path, $value) = @_;
    open my $file, '>', $path or return;
    return defined(syswrite $file, $value) && close $file;
}

sub number { my ($path) = @_; return (read_file($path) // return) + 0 }

# For the tests: the groups, the version, and the file of the limit.
sub outer      { return $outer }
sub inner      { return $inner }
sub version    { return $version }
sub limit_file { my ($group) = @_; return "$group/memory.$FILES{$version}{limit}" }

# Returns the lines "name number" of a file.
sub numbers { my ($path) = @_; return map { split ' ' } split /\n/, read_file($path) // '' }

# Returns a group's figures by their names in an answer. They are the kernel's, but for their names.
sub kernels {
    my ($group) = @_;
    my %stat = numbers("$group/memory.stat");
    my %figures = (usage => number("$group/memory.$FILES{$version}{usage}"));
    if ($version == 1) {
        @figures{qw(anon shmem swap)} = @stat{qw(total_rss total_shmem total_swap)};
        $figures{page_cache} = $stat{total_cache} - $stat{total_shmem};
        $figures{kernel}     = number("$group/memory.kmem.usage_in_bytes");
    }
    else {
        @figures{qw(anon shmem)} = @stat{qw(anon shmem)};
        $figures{swap}       = number("$group/memory.swap.current");
        $figures{page_cache} = $stat{file} - $stat{shmem};
        $figures{kernel}     = $stat{kernel} + $stat{sock} if defined $stat{kernel};
    }
    return \%figures;
}

# Runs a function in a child in the servers' group. Returns the child's status.
sub in_group {
    my ($function) = @_;
    my $pid = fork // die "cannot fork: $!\n";
    if (!$pid) {
        set("$inner/cgroup.procs", $$) or POSIX::_exit(1);
        $function->();
        POSIX::_exit(0);
    }
    waitpid $pid, 0;
    return $?;
}

my $made_by = $$;
END {
    if ($made_by == $$ && defined $outer) {
        rmdir $_ for $inner, $outer;
    }
}

plan(skip_all => $why) if $why = $> ? 'only root can make control groups' : make_groups();
run_tests();

__DATA__

=== TEST 1: a server in a group whose limit is that of the group above
--- under
sh -c 'echo $$ > "$MEMSTAT_GROUP/cgroup.procs" && exec "$@"' sh
--- main_config
worker_processes 2;
--- http_config
limit_req_zone $binary_remote_addr zone=one:1m rate=1000r/s;
--- config
limit_req zone=one burst=1000;
location /memstat { memstat; }
--- perl
for my $pid ($t->master, children($t->master)) {
    like read_file("/proc/$pid/cgroup"), qr{/memstat-test-\d+/server$}m, "$pid is in the group";
}
my $reply = settled($t);
is_deeply [ grep { /container/ } map { @{ $_->{notes} } } @{ $reply->{processes} } ], [],
    'workers may read all of it';
my $container = $reply->{container};
is $container->{limit}, LIMIT, 'the limit';
is $container->{high}, undef, 'no other';
my $expected = kernels(outer());
for my $figure (qw(usage anon shmem page_cache kernel)) {
    next unless defined $expected->{$figure};
    near $container->{$figure}, $expected->{$figure}, 4 * MB, "$figure, as the kernel has it";
    cmp_ok $container->{$figure}, '<', LIMIT, "$figure is below the limit";
}
is $container->{headroom}, LIMIT - $container->{usage}, 'what is left';
is $container->{swap}, $expected->{swap}, 'swap';
is $container->{oom_kills}, 0, 'no kills';
is defined $container->{pressure}, -e outer() . "/memory.pressure" ? 1 : '', 'pressure, in version 2';
cmp_ok $container->{anon}, '>', 2 * MB, 'processes hold something';

my $text = $t->get('/memstat?format=text')->{body};
like $text, qr{^container: \S+ MiB of 256 MiB \(\d+%\); page cache .*processes [\d.]+ MiB}m, 'as text';
like $t->get('/memstat?format=text&fields=container')->{body}, qr{^container: \S+ MiB of 256 MiB}m, 'and alone';
like $t->get('/memstat?format=html')->{body}, qr{<dt>Container</dt><dd>[^<]+MiB</dd><dd class="note">of 256 MiB \(\d+%\)}, 'as a page';
my $metrics = $t->get('/memstat?format=prometheus')->{body};
is_deeply [ $metrics =~ /^nginx_memstat_container_limit_bytes (\d+)$/m ], [LIMIT], 'as a metric';
like $metrics, qr/^nginx_memstat_container_oom_kills_total 0$/m, 'and a counter';
my $narrow = sub { return JSON::PP->new->decode($t->get("/memstat?fields=$_[0]")->{body}) };
is_deeply $narrow->('container.limit'), { container => { limit => LIMIT } }, 'one field';
is_deeply [ sort keys %{ $narrow->('container')->{container} } ], [ sort keys %$container ], 'all fields';

my $own = limit_file(inner());
ok set($own, 128 * MB), 'a smaller limit of the own group';
$container = $t->fresh->{container};
is $container->{limit}, 128 * MB, 'is the one that counts';
near $container->{usage}, kernels(inner())->{usage}, 4 * MB, 'and its usage';
ok set($own, version() == 1 ? -1 : 'max'), 'no limit of its own again';
is $t->fresh->{container}{limit}, LIMIT, 'as before';

=== TEST 2: the page cache grows, processes do not
--- under
sh -c 'echo $$ > "$MEMSTAT_GROUP/cgroup.procs" && exec "$@"' sh
--- main_config
worker_processes 1;
--- config
location /memstat { memstat; }
--- perl
my $big = $t->root . '/html/big';
system "dd if=/dev/zero of=$big bs=1M count=64 oflag=direct status=none 2>/dev/null";
SKIP: {
    skip 'this file system cannot write past the page cache', 1 unless (-s $big // 0) == 64 * MB;
    my $before = settled($t);
    is length $t->get('/big')->{body}, 64 * MB, 'a big file';
    my $after = $t->wait_for('the kernel has counted the pages', sub {
        my $reply = $t->fresh;
        return $reply->{container}{page_cache} > $before->{container}{page_cache} + 60 * MB ? $reply : undef;
    });
    my $grew = sub { my ($figure) = @_; return $after->{container}{$figure} - $before->{container}{$figure} };
    near $grew->('page_cache'), 64 * MB, 4 * MB, 'is in the page cache';
    near $grew->('usage'), 64 * MB, 8 * MB, 'which counts as usage';
    near $grew->($_), 0, 4 * MB, "not as $_" for qw(anon shmem);
    near $after->{totals}{resident}, $before->{totals}{resident}, 4 * MB, 'and no process has grown';
    near $after->{container}{page_cache}, kernels(outer())->{page_cache}, 4 * MB, 'as the kernel has it';
}

=== TEST 3: a process that takes too much is killed
--- under
sh -c 'echo $$ > "$MEMSTAT_GROUP/cgroup.procs" && exec "$@"' sh
--- main_config
worker_processes 1;
--- config
location /memstat { memstat; }
--- perl
my $kills = $t->memstat->{container}{oom_kills};
my $status = in_group(sub { my $taken = 'x' x (2 * LIMIT) });
is $status & 127, 9, 'by the kernel';
is $t->fresh->{container}{oom_kills}, $kills + 1, 'which is counted';
like $t->get('/memstat?format=text')->{body}, qr/killed for lack of memory/, 'and shown';
is scalar $t->workers, 1, 'nginx runs on';
