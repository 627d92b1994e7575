# Builds the programs in t/tools and the nginx modules in t/modules, with the headers of the tested nginx.
# Each is built once per run.
package Test::Memstat::Build;

use strict;
use warnings;

use Cwd qw(abs_path);
use Exporter 'import';
use File::Basename qw(dirname);
use File::Temp;

our @EXPORT_OK = qw(library module program);

my $REPOSITORY = abs_path(dirname(__FILE__) . '/../../../..');
my $SOURCE     = $ENV{NGINX_SOURCE_DIR} || "$REPOSITORY/build/nginx";
my $BUILD      = $ENV{NGINX_BUILD_DIR}  || "$SOURCE/objs";

my $folder;
my %built;

# Builds the program t/tools/NAME.c, and returns its path.
sub program {
    my ($name) = @_;
    return build("t/tools/$name.c", $name);
}

# Builds the library t/tools/NAME.c, and returns its path.
sub library {
    my ($name) = @_;
    return build("t/tools/$name.c", "$name.so", qw(-shared -fPIC));
}

# Builds the dynamic module t/modules/NAME.c, and returns its path. More arguments are options of gcc.
sub module {
    my ($name, @options) = @_;
    return build("t/modules/$name.c", "$name.so", qw(-shared -fPIC), @options);
}

sub build {
    my ($source, $name, @options) = @_;
    my $key = "@_";
    return $built{$key} if $built{$key};
    $folder //= File::Temp->newdir('memstat-XXXXXX', TMPDIR => 1);
    chmod 0755, $folder;
    # Each file has its own folder, so that it can keep its name: modules are recognised by it.
    my $place = "$folder/" . keys %built;
    mkdir $place or die "cannot make $place: $!\n";
    my @headers = map { "-I$SOURCE/src/$_" }
        qw(core event event/modules os/unix http http/modules http/v2 stream);
    my @command = ('gcc', '-O1', '-Wall', @options, @headers, "-I$BUILD", '-o', "$place/$name",
        "$REPOSITORY/$source");
    system(@command) == 0 or die "cannot build $source\n";
    return $built{$key} = "$place/$name";
}

1;
