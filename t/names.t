# The names of the creators of pools: each has one, and the same in every process.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

use Test::Memstat::Build qw(module);

# Returns the creators of a process as "name in object: kind".
sub creators {
    my ($process) = @_;
    return map { ($_->{creator} // 'null') . " in $_->{object}: $_->{kind}" }
        @{ ($process->{pools} // return)->{by_creator} };
}

sub all_creators {
    my ($t) = @_;
    my %all = map { $_ => 1 } map { creators($_) } @{ $t->fresh->{processes} };
    return sort keys %all;
}

run_tests();

__DATA__

=== TEST 1: every creator in nginx has a name, and the same one everywhere
--- main_config
worker_processes 2;
--- http_config
geo $place { default 0; 10.0.0.0/8 1; }
map $host $mapped { default 0; a 1; }
server {
    listen 127.0.0.1:$TEST_NGINX_PORT_2 http2;
    location / { return 204; }
    location /slow { proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT; }
}
--- config
location /memstat { memstat; access_log off; }
location / { return 204; access_log $TEST_NGINX_SERVER_ROOT/logs/packed.log combined gzip buffer=4k flush=10ms; }
--- perl
my $http2 = 'http://127.0.0.1:' . $t->port(2);
my $load  = sub {
    for (1 .. 20) {
        is `curl -s -o /dev/null -w '%{http_code}' --http2-prior-knowledge $http2/`, '204', 'HTTP/2';
        is `curl -s -o /dev/null -w '%{http_code}' --http2-prior-knowledge $http2/slow`, '204', 'and to an upstream';
    }
};
$load->();
# Creators that read the configuration are seen after a reload at the latest.
$t->reload;
$load->();
my $logged = qr/^ngx_http_log_(?:\*|gzip) in nginx: /;
$t->wait_for('the log is flushed', sub { grep { $_ =~ $logged } all_creators($t) });
my @all = all_creators($t);
is_deeply [ grep { /^null|^\?|\+0x/ } @all ], [], 'each has a name' or diag join "\n", @all;
like join("\n", @all), qr/^ngx_http_${_}_(?:\*|block)? in nginx: conf$/m, "what reads $_" for qw(geo map);
my %names;
/^(\S+) in nginx: http2_stream$/ && $names{$1}++ for @all;
is scalar keys %names, 1, "one name for a stream of HTTP/2: @{[ keys %names ]}";
is scalar(grep { /^ngx_http_(?:create|alloc)_request / } @all), 1, 'and one for a request';

=== TEST 2: functions of a module by its file, and without its symbols by the module
--- main_config
load_module $TEST_NGINX_BUILT_ngx_http_pool_test_module;
worker_processes 1;
--- config
location /memstat { memstat; }
location /leak { pool_test_leak 2000; }
--- perl
$t->get('/leak');
my $of = sub { grep { /ngx_http_pool_test_module/ } all_creators($t) };
is_deeply [ $of->() ], ['ngx_http_pool_test_leak in ngx_http_pool_test_module.so: other'], 'by its file';

my $stripped = $t->root . '/ngx_http_pool_test_module.so';
system('strip', '-o', $stripped, module('ngx_http_pool_test_module')) == 0 or die "cannot strip\n";
my $other = Test::Memstat::Server->new(
    main_config => "load_module $stripped;\nworker_processes 1;",
    config      => "location /memstat { memstat; }\nlocation /leak { pool_test_leak 2000; }",
);
$other->start;
$other->get('/leak');
my @names = grep { /ngx_http_pool_test_module/ } all_creators($other);
is_deeply \@names, ['ngx_http_pool_test_* in ngx_http_pool_test_module.so: other'], 'by the module';
is $_, undef, 'it ends as told' for $other->stop;

=== TEST 3: without its symbols by the distribution's file of debugging information
--- config
location /memstat { memstat; }
--- perl
my $name  = 'ngx_http_pool_test_module';
my $built = module($name, '-g', '-Wl,--build-id');
my ($id) = `readelf -n $built` =~ /Build ID: (\w\w\w+)/ or die "it has no id\n";
my ($folder, $file) = $id =~ /^(..)(.*)/;
$folder = "/usr/lib/debug/.build-id/$folder";
if (-e "$folder/$file.debug" || !-w '/usr/lib') { plan(skip_all => "$folder is not ours to make"); return }
my $stripped = $t->root . "/$name.so";
my $names_with = sub {
    my ($option) = @_;
    my $other = Test::Memstat::Server->new(
        main_config => "load_module $stripped;\nworker_processes 1;",
        config      => "location /memstat { memstat; }\nlocation /leak { pool_test_leak 2000; }",
    );
    my @made = grep { !-d } '/usr/lib/debug', '/usr/lib/debug/.build-id', $folder;
    mkdir for @made;
    my $debug = "$folder/$file.debug";
    my $lived = eval {
        system('objcopy', '--only-keep-debug', @$option, $built, $debug) == 0 or die "cannot copy\n";
        $other->start;
        $other->get('/leak');
        1;
    };
    my $why = $@;
    unlink $debug;
    rmdir for reverse @made;
    ok $lived, "it runs: $why";
    my @names = grep { /\Q$name/ } all_creators($other);
    is $_, undef, 'it ends as told' for $other->stop;
    return \@names;
};
system('strip', '-o', $stripped, $built) == 0 or die "cannot strip\n";
is_deeply $names_with->([]), ["ngx_http_pool_test_leak in $name.so: other"], 'by its id';
is_deeply $names_with->([ '--remove-section=.note.gnu.build-id' ]), ["ngx_http_pool_test_* in $name.so: other"],
    'not by that of another build';

=== TEST 4: without its symbols by those that are compressed in the file
--- config
location /memstat { memstat; }
--- perl
my $name  = 'ngx_http_pool_test_module';
my $built = module($name, '-g');
my $root  = $t->root;
my $run   = sub { system(@_) == 0 or die "cannot run @_\n" };
# As rpm does it: the functions that are not exported, with their names, in an ELF file of their own.
my $names_of = sub { map { /^(\S+) [Tt] / ? $1 : () } qx{nm --format=posix --defined-only @_} };
my %exported = map { $_ => 1 } $names_of->('-D', $built);
open my $keep, '>', "$root/keep" or die "cannot write: $!\n";
print $keep map { "$_\n" } grep { !$exported{$_} } $names_of->($built);
close $keep or die "cannot write: $!\n";
$run->('objcopy', '--only-keep-debug', $built, "$root/debug");
$run->('objcopy', '-S', '--remove-section=.comment', "--keep-symbols=$root/keep", "$root/debug", "$root/mini");
$run->('xz', "$root/mini");

my $file       = "$root/$name.so";
my $names_with = sub {
    my ($packed) = @_;
    $run->('strip', '-R', '.comment', '-o', $file, $built);
    $run->('objcopy', "--add-section=.gnu_debugdata=$packed", $file);
    my $other = Test::Memstat::Server->new(
        main_config => "load_module $file;\nworker_processes 1;",
        config      => "location /memstat { memstat; }\nlocation /leak { pool_test_leak 2000; }",
    );
    $other->start;
    $other->get('/leak');
    my @names = grep { /\Q$name/ } all_creators($other);
    is $_, undef, 'it ends as told' for $other->stop;
    return \@names;
};
is_deeply $names_with->("$root/mini.xz"), ["ngx_http_pool_test_leak in $name.so: other"], 'by the section';
# It is not trusted: one that is too large, and one that is cut off.
$run->('sh', '-c', "head -c 40000000 /dev/zero | cat '$root/debug' - | xz -1 >'$root/large.xz'");
$run->('sh', '-c', "head -c 300 '$root/mini.xz' >'$root/cut.xz'");
is_deeply $names_with->("$root/$_.xz"), ["ngx_http_pool_test_* in $name.so: other"], "not if it is $_" for qw(large cut);
